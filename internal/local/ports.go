package local

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// ephemeralPort is where Linux begins to hand out ports for outgoing connections: a server port above it is taken
// now and then by somebody's client.
const ephemeralPort = 32768

// ports finds free ones and never gives the same port twice; the parts of a stack share it.
type ports struct {
	mu    sync.Mutex
	given map[int]bool
}

// next is the first free port from want upwards.
func (p *ports) next(want int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given == nil {
		p.given = make(map[int]bool)
	}
	for port := want; port < ephemeralPort; port++ {
		if p.given[port] {
			continue
		}
		free, err := portFree(port)
		if err != nil {
			return 0, err
		}
		if free {
			p.given[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d", want, ephemeralPort-1)
}

func portFree(port int) (bool, error) {
	l, err := net.Listen("tcp", loopback(port))
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("port %d: %w", port, err)
	}
	return true, l.Close()
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
