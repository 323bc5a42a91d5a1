package link

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo answers each line with itself, by TCP, and notes each datagram.
func echo(t *testing.T) (address string, datagrams <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	at := listener.Addr().(*net.TCPAddr)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); io.Copy(conn, conn) }()
		}
	}()
	heard := make(chan string, 100)
	go func() {
		for buffer := make([]byte, 100); ; {
			n, err := udp.Read(buffer)
			if err != nil {
				return
			}
			heard <- string(buffer[:n])
		}
	}()
	return listener.Addr().String(), heard
}

type talk struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, l *Link) *talk {
	t.Helper()
	conn, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &talk{t, conn, bufio.NewReader(conn)}
}

func (k *talk) say(line string) {
	k.t.Helper()
	if _, err := k.conn.Write([]byte(line + "\n")); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) hears(line string) {
	k.t.Helper()
	k.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if got, err := k.in.ReadString('\n'); err != nil || got != line+"\n" {
		k.t.Fatalf("heard %q (%v), want %q", got, err, line)
	}
}

func (k *talk) hearsNothing() {
	k.t.Helper()
	k.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if got, err := k.in.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		k.t.Fatalf("heard %q (%v), want nothing", got, err)
	}
}

func open(t *testing.T) (*Link, <-chan string) {
	t.Helper()
	far, datagrams := echo(t)
	l, err := Open(far, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, datagrams
}

func TestACutConnectionGoesOn(t *testing.T) {
	for name, state := range map[string]State{"both ways": {Out: true, Back: true}, "out": {Out: true}, "back": {Back: true}} {
		t.Run(name, func(t *testing.T) {
			l, _ := open(t)
			early := dial(t, l)
			early.say("before")
			early.hears("before")
			l.Set(state)
			early.say("meanwhile")
			late := dial(t, l)
			late.say("late")
			early.hearsNothing()
			late.hearsNothing()
			l.Set(State{})
			early.hears("meanwhile")
			late.hears("late")
		})
	}
}

func TestABrokenOneEnds(t *testing.T) {
	l, _ := open(t)
	early := dial(t, l)
	early.say("before")
	early.hears("before")
	l.Set(State{Broken: true})
	late := dial(t, l)
	for _, k := range []*talk{early, late} {
		k.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := k.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("it goes on: %v", err)
		}
	}
	l.Set(State{})
	again := dial(t, l)
	again.say("again")
	again.hears("again")
}

func TestASlowOneIsLate(t *testing.T) {
	l, _ := open(t)
	l.Set(State{Delay: 100 * time.Millisecond})
	k := dial(t, l)
	began := time.Now()
	k.say("slow")
	k.hears("slow")
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("there and back in %v", took)
	}
}

func TestDatagrams(t *testing.T) {
	l, datagrams := open(t)
	conn, err := net.Dial("udp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A datagram may be lost on its own account, so it is sent until it is heard.
	until := func(text string) {
		t.Helper()
		for range 100 {
			conn.Write([]byte(text))
			select {
			case got := <-datagrams:
				if got == text {
					return
				}
				if got == "lost" {
					t.Fatal("a datagram went through a cut")
				}
			case <-time.After(300 * time.Millisecond):
			}
		}
		t.Fatalf("%q was never heard", text)
	}
	until("before")
	l.Set(State{Out: true})
	for range 10 {
		conn.Write([]byte("lost"))
	}
	for until := time.Now().Add(30 * time.Second); l.lost.Load() < 10; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d of 10 are lost", l.lost.Load())
		}
	}
	l.Set(State{})
	until("after")
}
