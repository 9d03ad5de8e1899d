// SPDX-License-Identifier: GPL-3.0-or-later

package announce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brutella/dnssd"
	"github.com/brutella/dnssd/log"

	"github.com/llama-orch/llama-orch/contracts/discovery"
)

// lookEvery is how often Say looks whether the machine has other addresses.
const lookEvery = 10 * time.Second

// Say announces a daemon that listens at addr, HOST:PORT, until in ends. It says goodbye then. Where the machine gets other addresses, it announces those.
func Say(in io.Reader, name, addr string, tls bool) error {
	log.Info.Disable()
	host, port, err := split(addr)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { // until in ends, which is when this process does
		defer stop()
		_, _ = io.Copy(io.Discard, in) // an error is an end too
	}()
	for ctx.Err() == nil {
		if err := sayOnce(ctx, name, host, port, tls); err != nil {
			return err
		}
	}
	return nil
}

// sayOnce announces the addresses that there are now, until there are others or ctx ends.
func sayOnce(ctx context.Context, name string, host netip.Addr, port int, tls bool) error {
	cards, err := interfaces()
	if err != nil {
		return err
	}
	now := places(host, cards)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changed := make(chan struct{})
	go func() { // joined below
		defer close(changed)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lookEvery):
			}
			if cards, err := interfaces(); err == nil && !reflect.DeepEqual(places(host, cards), now) {
				stop()
			}
		}
	}()
	defer func() { stop(); <-changed }()
	if len(now) == 0 { // a cable that is not plugged in yet
		<-ctx.Done()
		return nil
	}
	responder, err := dnssd.NewResponder()
	if err != nil {
		return fmt.Errorf("take part in multicast DNS: %w", err)
	}
	for _, p := range now {
		service, err := dnssd.NewService(dnssd.Config{
			Name: Name(name), Type: discovery.Type, Port: port, IPs: p.ips, Ifaces: []string{p.card},
			Host: "llama-orch-" + Name(""), // not the machine's own name, which another responder may have
			Text: map[string]string{discovery.TLS: map[bool]string{true: "1", false: "0"}[tls]},
		})
		if err == nil {
			_, err = responder.Add(service)
		}
		if err != nil {
			return fmt.Errorf("announce on %s: %w", p.card, err)
		}
	}
	if err := responder.Respond(ctx); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("answer on the network: %w", err)
	}
	return nil
}

// split takes an address that is listened on apart.
func split(addr string) (host netip.Addr, port int, err error) {
	text, number, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(number)
	}
	if err == nil {
		host, err = netip.ParseAddr(text)
	}
	if err != nil {
		return host, port, fmt.Errorf("%q is no address of a daemon that can be announced: %w", addr, err)
	}
	return host.Unmap(), port, nil
}

// card is a network interface of this machine.
type card struct {
	name  string
	addrs []netip.Prefix // its addresses, each with the length of its network
}

// interfaces are those by which other machines may be reached by multicast.
func interfaces() (cards []card, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("look at the network interfaces: %w", err)
	}
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		c := card{name: i.Name}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				c.addrs = append(c.addrs, p)
			}
		}
		slices.SortFunc(c.addrs, netip.Prefix.Compare)
		cards = append(cards, c)
	}
	slices.SortFunc(cards, func(a, b card) int { return strings.Compare(a.name, b.name) })
	return cards, nil
}

// place is an interface, and the addresses of it that are announced there.
type place struct {
	card string
	ips  []net.IP
}

// places are where a daemon that listens on host can be reached: on each interface at that one's own addresses. Addresses that are valid on one link alone are left out, since they need the
// name of the reader's interface beside them. Of two interfaces to one network, as a cable and a radio may be, the second is left out: there the daemon would hear itself, and take itself for another.
func places(host netip.Addr, cards []card) (all []place) {
	known := map[netip.Prefix]bool{}
	for _, c := range cards {
		p := place{card: c.name}
		for _, at := range c.addrs {
			a, network := at.Addr(), at.Masked()
			if a.IsLinkLocalUnicast() || known[network] {
				continue
			}
			if a == host.WithZone("") || host.IsUnspecified() && (host.Is6() || a.Is4()) {
				p.ips, known[network] = append(p.ips, net.IP(a.AsSlice())), true
			}
		}
		if len(p.ips) > 0 {
			all = append(all, p)
		}
	}
	return all
}
