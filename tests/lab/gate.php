<?php
/**
 * gate: one process that a client may talk with over a connection for each request, or over one that it keeps.
 *
 * What begins with GET or OPTIONS is answered with its name, and the connection is closed; anything else is sent back.
 * Its first start opens connections to PEER, which closes them, and never looks at them again.
 *
 * Usage: gate.php NAME DIRECTORY PORT PEER. In DIRECTORY it writes NAME.pid, and a pid a line into NAME.starts.
 */

declare(strict_types=1);

const LEAKED = 4;

[, $name, $directory, $port, $peer] = $argv;

$isFirst = !file_exists("$directory/$name.starts");
file_put_contents("$directory/$name.starts", getmypid() . "\n", FILE_APPEND);
file_put_contents("$directory/$name.pid.new", (string) getmypid());
rename("$directory/$name.pid.new", "$directory/$name.pid");

$listener = stream_socket_server("tcp://127.0.0.1:$port", $errorNumber, $error);
if ($listener === false) {
    fwrite(STDERR, "cannot listen on port $port: $error\n");
    exit(1);
}

$leaked = [];
while ($isFirst && count($leaked) < LEAKED) {
    $leaked[] = stream_socket_client("tcp://$peer");
}

$clients = [];
for (;;) {
    $readable = [$listener, ...$clients];
    $writable = $exceptional = null;
    stream_select($readable, $writable, $exceptional, null);
    foreach ($readable as $stream) {
        if ($stream === $listener) {
            if (($client = @stream_socket_accept($listener, 0)) !== false) {
                $clients[(int) $client] = $client;
            }
            continue;
        }
        $said = (string) @fread($stream, 4096);
        $isRequest = preg_match('/^(GET|OPTIONS) /', $said) === 1;
        if ($said !== '') {
            $length = strlen($name);
            @fwrite($stream, $isRequest ? "HTTP/1.0 200 OK\r\nContent-Length: $length\r\n\r\n$name" : $said);
        }
        if ($said === '' || $isRequest) {
            unset($clients[(int) $stream]);
            fclose($stream);
        }
    }
}
