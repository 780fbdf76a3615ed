<?php
/**
 * rpc-order: the pre-forked service of the story, on the Redis protocol.
 *
 * The master listens and forks the workers; each worker accepts for itself and answers PING. At its start a
 * worker also opens idle connections to the Redis server behind it. A start that leaks keeps them and never
 * looks at them again, so they stay in CLOSE_WAIT once that server closes them; another start closes them
 * after use.
 *
 * Files in the directory of behaviour decide, at each start of the master:
 *   leak         leaks, and is taken away: the next start is another one
 *   leak-always  leaks
 *   leak-some    as many of the workers that it starts with leak as it says; those that it starts later do not; a
 *                worker that is asked to end finishes what it is at
 *   sick         without a `leak` beside it: runs, but does not listen
 *   register     is sent to Consul: a line with the url to put to, then the registration
 *
 * Usage: rpc-order.php DIRECTORY PORT WORKERS REDIS_PORT
 */

declare(strict_types=1);

const CONNECTIONS_PER_WORKER = 3;

[, $directory, $port, $workers, $redisPort] = $argv;

function leaks(string $directory): bool
{
    if (file_exists("$directory/leak")) {
        unlink("$directory/leak");
        return true;
    }
    return file_exists("$directory/leak-always");
}

function register(string $file): void
{
    [$url, $body] = explode("\n", file_get_contents($file), 2);
    $request = ['method' => 'PUT', 'header' => 'Content-Type: application/json', 'content' => $body];
    file_get_contents($url, false, stream_context_create(['http' => $request]));
}

/** @return Redis[] */
function openConnections(int $redisPort): array
{
    $connections = [];
    for ($i = 0; $i < CONNECTIONS_PER_WORKER; $i++) {
        $connection = new Redis();
        $connection->connect('127.0.0.1', $redisPort);
        $connection->ping();
        $connections[] = $connection;
    }
    return $connections;
}

/** Answers one client until it closes. Both forms of PING end in a line `PING`. */
function serve($client): void
{
    while (($line = fgets($client)) !== false) {
        if (strcasecmp(rtrim($line), 'PING') === 0) {
            fwrite($client, "+PONG\r\n");
        }
    }
    fclose($client);
}

function work($listener, int $redisPort, bool $leaks, bool $finishes): never
{
    $connections = openConnections($redisPort);
    if (!$leaks) {
        foreach ($connections as $connection) {
            $connection->close();
        }
    }
    for (;;) {
        $client = @stream_socket_accept($listener, -1);
        if ($client !== false) {
            $finishes && pcntl_sigprocmask(SIG_BLOCK, [SIGTERM]);
            serve($client);
            $finishes && pcntl_sigprocmask(SIG_UNBLOCK, [SIGTERM]);
        }
    }
}

$leaks = leaks($directory);
$leaking = file_exists("$directory/leak-some") ? (int) file_get_contents("$directory/leak-some") : 0;
if (!$leaks && file_exists("$directory/sick")) {
    for (;;) {
        sleep(3600);
    }
}

$listener = stream_socket_server(
    "tcp://127.0.0.1:$port",
    $errorNumber,
    $error,
    STREAM_SERVER_BIND | STREAM_SERVER_LISTEN,
    stream_context_create(['socket' => ['backlog' => 512]])
);
if ($listener === false) {
    fwrite(STDERR, "cannot listen on port $port: $error\n");
    exit(1);
}

fwrite(STDERR, "listens on port $port, $workers workers\n");

if (file_exists("$directory/register")) {
    register("$directory/register");
}

for ($running = 0, $started = 0;; $running--) {
    for (; $running < (int) $workers; $running++, $started++) {
        if (pcntl_fork() === 0) {
            work($listener, (int) $redisPort, $leaks || $started < $leaking, $leaking > 0);
        }
    }
    // SIGTERM reaches the workers and the master alike, and ends them as it ends any program.
    pcntl_wait($status);
}
