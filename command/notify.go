package command

import (
	"net"
	"os"
)

// notify tells the service manager that started this process how far it is, by systemd's protocol (sd_notify(3)): "READY=1", "STOPPING=1". Nothing happens where there
// is none, and what does not arrive changes nothing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // "@" at the front is an abstract one, here as there
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte(state))
	_ = conn.Close()
}
