<?php
/**
 * leaky: holds as many sockets in CLOSE_WAIT as it is told, of either direction, and nothing else. Both ends are its
 * own, so it needs nobody else in its network.
 *
 * Usage: leaky.php PORT INBOUND OUTBOUND
 */

declare(strict_types=1);

[, $port, $inbound, $outbound] = $argv;
$address = "tcp://127.0.0.1:$port";
$listener = stream_socket_server($address, $errorNumber, $error);
if ($listener === false) {
    fwrite(STDERR, "cannot listen on port $port: $error\n");
    exit(1);
}

$kept = [];
for ($i = 0; $i < (int) $inbound; $i++) {
    $client = stream_socket_client($address);
    $kept[] = stream_socket_accept($listener);
    fclose($client);
}
for ($i = 0; $i < (int) $outbound; $i++) {
    $kept[] = stream_socket_client($address);
    fclose(stream_socket_accept($listener));
}
fwrite(STDERR, 'leaks ' . count($kept) . "\n");
for (;;) {
    sleep(3600);
}
