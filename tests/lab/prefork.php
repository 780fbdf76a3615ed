<?php
/**
 * prefork: a master with workers of which some hold a connection to one peer and never look at it again, so that it
 * leaks when the peer closes it.
 *
 * Each word after the first four changes one thing:
 *   no-refork   the master starts no new workers
 *   stubborn    the first worker ignores SIGTERM
 *   nested      the master stands below the process of the pid file, and leaks a connection itself
 *   attentive   a worker closes its connection once the kernel says that it has failed
 *
 * Usage: prefork.php PID_FILE PORT WORKERS LEAKING [WORD...]
 */

declare(strict_types=1);

[, $pidFile, $port, $workers, $leaking] = $argv;
$words = array_slice($argv, 5);

function connect(int $port): Socket
{
    $connection = socket_create(AF_INET, SOCK_STREAM, SOL_TCP);
    socket_connect($connection, '127.0.0.1', $port);
    return $connection;
}

function work(int $number, bool $leaks, int $port, array $words): never
{
    if ($number === 0 && in_array('stubborn', $words, true)) {
        pcntl_signal(SIGTERM, SIG_IGN);
    }
    $connection = $leaks ? connect($port) : null;
    for (;;) {
        usleep(50_000);
        if ($connection !== null && in_array('attentive', $words, true)
            && socket_get_option($connection, SOL_SOCKET, SO_ERROR) !== 0) {
            socket_close($connection);
            $connection = null;
        }
    }
}

$named = getmypid();
$own = null;
if (in_array('nested', $words, true)) {
    if (pcntl_fork() !== 0) {
        pcntl_wait($status);
        exit(1);
    }
    $own = connect((int) $port);
}

for ($running = 0, $started = 0;; $running--) {
    $more = $started < (int) $workers || !in_array('no-refork', $words, true);
    for (; $more && $running < (int) $workers; $running++, $started++) {
        if (pcntl_fork() === 0) {
            work($started, $started < (int) $leaking, (int) $port, $words);
        }
    }
    if ($started === (int) $workers && !file_exists($pidFile)) {
        file_put_contents($pidFile, $named . "\n");
    }
    if (pcntl_wait($status) < 0) {
        sleep(3600);
    }
}
