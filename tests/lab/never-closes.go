// A server that never closes a connection, as Go has it otherwise: keepalive is on without being asked for. Its probes come
// every second here, in place of 15 s. Prints its port.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

func main() {
	quick := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}
	config := net.ListenConfig{KeepAliveConfig: quick}
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	var held []net.Conn
	for {
		connection, err := listener.Accept()
		if err != nil {
			// Out of descriptors: it serves nobody any more.
			time.Sleep(time.Second)
			continue
		}
		held = append(held, connection)
		go io.Copy(io.Discard, connection)
	}
}
