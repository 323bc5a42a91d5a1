package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	encoding "encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-pop/postern/pkg/pki"
)

// The floor: bare loops in Go that do what can't be left out, and nothing else.
// They show what the machine could do at the moment of the run.
//
//	session   TLS; four lines answered from memory
//	delivery  LMTP and SHA-256 in one process ─TLS─▶ another, which appends to a
//	          file and does one fsync for all that waits
const (
	floorRole  = "POSTERN_BENCH_FLOOR" // of the process: front, intake or store
	floorDir   = "POSTERN_BENCH_FLOOR_DIR"
	floorStore = "POSTERN_BENCH_FLOOR_STORE" // address of the store, for the intake
)

// anyTLS is a client's that offers what benchTLS does and verifies nothing.
func anyTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}
}

// startFloor starts this test's program again for each role, and describes what
// runs as a region.
func startFloor(b *testing.B, roles ...string) (region demoRegionReport) {
	b.Helper()
	dir := b.TempDir()
	authority, err := pki.Open(dir, "floor", time.Now)
	if err == nil {
		_, err = authority.Issue(pki.Subject{Name: "floor", Hosts: []string{"127.0.0.1"}, Server: true})
	}
	if err != nil {
		b.Fatal(err)
	}
	address := ""
	for _, role := range roles {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFloorProcess$")
		cmd.Env = append(os.Environ(), floorRole+"="+role, floorDir+"="+dir, floorStore+"="+address)
		address = started(b, cmd)
		region.Processes = append(region.Processes, demoProcessReport{Role: role, PID: cmd.Process.Pid})
	}
	region.POP3S, region.LMTP = address, address
	return region
}

// started starts a process apart that says where it listens, and ends it with
// the benchmark.
func started(b *testing.B, cmd *exec.Cmd) (address string) {
	b.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	apart(b, func() { err = cmd.Start() })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := fmt.Fscanln(stdout, &address); err != nil {
		b.Fatal(err)
	}
	return address
}

// TestFloorProcess is no test: it is a process of the floor, where the
// environment says so.
func TestFloorProcess(t *testing.T) {
	role := os.Getenv(floorRole)
	if role == "" {
		return
	}
	dir := os.Getenv(floorDir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "floor.pem"), filepath.Join(dir, "floor.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(l.Addr())
	secured := tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
	switch role {
	case "front":
		err = eachConn(secured, floorSession)
	case "intake":
		err = eachConn(l, floorIntake)
	case "store":
		err = eachConn(secured, floorStoreOn(filepath.Join(dir, "mail")))
	}
	t.Fatal(err)
}

func eachConn(l net.Listener, serve func(net.Conn) error) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { _ = serve(conn); conn.Close() }()
	}
}

// floorSession answers POP3 commands from memory.
func floorSession(conn net.Conn) error {
	lines := bufio.NewReader(conn)
	_, err := io.WriteString(conn, "+OK\r\n")
	for err == nil {
		var line string
		if line, err = lines.ReadString('\n'); err != nil {
			break
		}
		if _, err = io.WriteString(conn, "+OK 5 5000\r\n"); strings.HasPrefix(line, "QUIT") {
			return err
		}
	}
	return err
}

// floorIntake takes messages in and hands each to the store, on a connection of
// its own.
func floorIntake(conn net.Conn) error {
	store, err := tls.Dial("tcp", os.Getenv(floorStore), anyTLS())
	if err != nil {
		return err
	}
	defer store.Close()
	in := bufio.NewReaderSize(conn, 64<<10)
	_, err = io.WriteString(conn, "220 ok\r\n")
	for err == nil {
		var line string
		if line, err = in.ReadString('\n'); err != nil {
			break
		}
		switch line[:4] {
		case "LHLO":
			_, err = io.WriteString(conn, "250 ok\r\n")
		case "DATA": // MAIL and RCPT came with it
			if _, err = io.WriteString(conn, "250 ok\r\n250 ok\r\n354 go\r\n"); err == nil {
				err = floorMessage(conn, in, store)
			}
		}
	}
	return err
}

// floorMessage reads a message to its end, hashes it and waits for the store.
func floorMessage(conn net.Conn, in *bufio.Reader, store net.Conn) error {
	message := make([]byte, 4, 128<<10)
	for !bytes.HasSuffix(message, []byte("\r\n.\r\n")) {
		n, err := in.Read(message[len(message):cap(message)])
		if err != nil {
			return err
		}
		message = message[:len(message)+n]
	}
	encoding.BigEndian.PutUint32(message, uint32(len(message)-4))
	_ = sha256.Sum256(message[4:])
	if _, err := store.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(store, message[:1]); err != nil {
		return err
	}
	_, err := io.WriteString(conn, "250 ok\r\n")
	return err
}

// stored is a message that waits to be durable.
type stored struct {
	octets []byte
	done   chan error
}

// floorStoreOn appends what comes to a file.
func floorStoreOn(name string) func(net.Conn) error {
	queue := make(chan stored, 1024)
	go floorCommit(name, queue)
	return func(conn net.Conn) error {
		in := bufio.NewReaderSize(conn, 64<<10)
		message := stored{octets: make([]byte, 128<<10), done: make(chan error)}
		whole := message.octets
		for {
			if _, err := io.ReadFull(in, whole[:4]); err != nil {
				return err
			}
			message.octets = whole[:encoding.BigEndian.Uint32(whole)]
			if _, err := io.ReadFull(in, message.octets); err != nil {
				return err
			}
			queue <- message
			if err := <-message.done; err != nil {
				return err
			}
			if _, err := conn.Write([]byte{0}); err != nil {
				return err
			}
		}
	}
}

func floorCommit(name string, queue <-chan stored) {
	file, err := os.Create(name)
	for first := range queue {
		batch := []stored{first}
		for len(queue) > 0 {
			batch = append(batch, <-queue)
		}
		for _, message := range batch {
			if err == nil {
				_, err = file.Write(message.octets)
			}
		}
		if err == nil {
			err = unix.Fdatasync(int(file.Fd()))
		}
		for _, message := range batch {
			message.done <- err
		}
	}
}
