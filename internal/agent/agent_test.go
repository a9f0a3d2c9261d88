package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
)

// connected returns a client of a server that answers by handle.
func connected(t *testing.T, handle func(*Call)) *Client {
	t.Helper()
	host, guest := socketPair(t)
	server := NewServer(writer(guest), handle)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(guest)
	}()
	c, err := Connect(t.Context(), once(host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		guest.Close()
		<-served
	})
	return c
}

// once dials a connection that is there.
func once(conn net.Conn) func(context.Context) (Conn, error) {
	return func(context.Context) (Conn, error) { return conn, nil }
}

func writer(w io.Writer) func([]byte) error {
	return func(p []byte) error {
		_, err := w.Write(p)
		return err
	}
}

// socketPair is a connection with buffers, as a unix socket has.
func socketPair(t *testing.T) (host, guest net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if host, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if guest, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return host, guest
}

// port is a guest's port as QEMU makes one: hosts come one after the other, of which the
// guest hears nothing.
func port(t *testing.T) (dial func(context.Context) (Conn, error), guest net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	line, guest := socketPair(t)
	var ends sync.WaitGroup
	ends.Go(func() {
		for {
			host, err := l.Accept()
			if err != nil {
				return
			}
			var back sync.WaitGroup
			back.Go(func() { _, _ = io.Copy(host, line) })
			_, _ = io.Copy(line, host)
			_ = line.SetReadDeadline(time.Unix(1, 0))
			back.Wait()
			_ = line.SetReadDeadline(time.Time{})
			host.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		line.Close()
		guest.Close()
		ends.Wait()
	})
	return func(context.Context) (Conn, error) { return net.Dial("unix", l.Addr().String()) }, guest
}

// echo answers exec: it copies input to output and error, and ends with 7.
func echo(c *Call) {
	if c.Request.Op != OpExec {
		c.Reply(Reply{})
		return
	}
	w := io.MultiWriter(c.Output(ChannelStdout), c.Output(ChannelStderr))
	_, _ = io.Copy(w, c.Stdin())
	c.Reply(Reply{Exit: &Exit{Code: 7}})
}

func TestExecCarriesStreams(t *testing.T) {
	c := connected(t, echo)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // four windows
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			var out, errs bytes.Buffer
			exit, err := c.Exec(t.Context(), Exec{Stdin: true}, Streams{Stdin: bytes.NewReader(data), Stdout: &out, Stderr: &errs})
			if err != nil || exit.Code != 7 || !bytes.Equal(out.Bytes(), data) || !bytes.Equal(errs.Bytes(), data) {
				t.Errorf("exit %+v, %v; %d and %d of %d bytes", exit, err, out.Len(), errs.Len(), len(data))
			}
		})
	}
	wg.Wait()
}

// TestSlowReader shows that a client that does not read holds up its own call
// only.
func TestSlowReader(t *testing.T) {
	c := connected(t, func(c *Call) {
		if c.Request.Op == OpExec {
			_, _ = c.Output(ChannelStdout).Write(make([]byte, 4*windowSize))
			c.Reply(Reply{Exit: &Exit{}})
			return
		}
		c.Reply(Reply{})
	})
	block := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(t.Context(), Exec{}, Streams{Stdout: writerFunc(func(p []byte) (int, error) {
			<-block
			return len(p), nil
		})})
		done <- err
	}()
	for range 100 {
		if err := c.Signal(t.Context(), 15); err != nil {
			t.Fatal(err)
		}
	}
	close(block)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestCancelReachesTheGuest(t *testing.T) {
	canceled := make(chan bool, 1)
	c := connected(t, func(c *Call) { canceled <- c.Canceled() })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, Exec{}, Streams{})
		done <- err
	}()
	for c.mux.find(1) == nil {
		<-time.After(time.Millisecond)
	}
	cancel()
	if err := <-done; !api.IsKind(err, api.Canceled) {
		t.Errorf("err = %v; want kind canceled", err)
	}
	if !<-canceled {
		t.Error("the guest was not told")
	}
}

// TestBoundStream shows that a host waits neither for a guest that sends for ever, nor
// for one that sends next to nothing, and that the conversation goes on.
func TestBoundStream(t *testing.T) {
	for name, guest := range map[string]struct {
		bound Bound
		send  func(io.Writer)
		want  string
	}{
		"endless": {Bound{Bytes: 4 << 20, Stall: time.Hour}, func(w io.Writer) {
			for _, err := w.Write(make([]byte, 4096)); err == nil; _, err = w.Write(make([]byte, 4096)) {
			}
		}, "more than 4 MiB"},
		"silent": {Bound{Bytes: 1 << 40, Stall: 10 * time.Millisecond}, func(io.Writer) {}, "too slowly (0 bytes in 10ms)"},
		"dripping": {Bound{Bytes: 1 << 40, Stall: 50 * time.Millisecond}, func(w io.Writer) {
			for _, err := w.Write([]byte("x")); err == nil; _, err = w.Write([]byte("x")) {
				<-time.After(time.Millisecond)
			}
		}, "too slowly"},
	} {
		t.Run(name, func(t *testing.T) {
			c := connected(t, func(c *Call) {
				if c.Request.Op == OpLayer {
					guest.send(c.Output(ChannelStdout))
					for !c.Canceled() {
						<-time.After(time.Millisecond)
					}
				}
				c.Reply(Reply{})
			})
			err := c.Layer(t.Context(), Layer{}, guest.bound, io.Discard)
			if err == nil || !strings.Contains(err.Error(), guest.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, guest.want)
			}
			if err := c.Signal(t.Context(), 15); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	c := connected(t, func(c *Call) {
		c.Reply(Reply{Kind: api.ErrorKind(c.Request.Path), Error: "two\nlines"})
	})
	for kind, want := range map[api.ErrorKind]api.ErrorKind{api.NotFound: api.NotFound, api.Denied: api.Internal, "made-up": api.Internal} {
		err := c.CopyOut(t.Context(), string(kind), io.Discard)
		if !api.IsKind(err, want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestNewHostAfterHalfAFrame leaves a guest in the middle of a frame, as a
// killed berthd may, and connects again.
func TestNewHostAfterHalfAFrame(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a greeting to be repeated")
	}
	dial, guest := port(t)
	server := NewServer(writer(guest), echo)
	go server.Serve(guest)
	host, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Write(hello([nonceSize]byte{1})); err != nil {
		t.Fatal(err)
	}
	half := appendFrame(nil, frameOpen, 1, make([]byte, maxPayload))
	if _, err := host.Write(half[:20000]); err != nil {
		t.Fatal(err)
	}
	host.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Connect(ctx, dial)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Signal(ctx, 15); err != nil {
		t.Error(err)
	}
}

// TestLateReply: what a guest says late to a host that has gone is nothing to the next one,
// whose call has the same number.
func TestLateReply(t *testing.T) {
	dial, guest := port(t)
	began, said := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	server := NewServer(writer(guest), func(c *Call) {
		if c.Request.Op != OpExec {
			c.Reply(Reply{})
			return
		}
		if calls.Add(1) == 1 {
			c.Canceled()
			<-began
			_, _ = c.Output(ChannelStdout).Write([]byte("late"))
			c.Reply(Reply{Exit: &Exit{Code: 137}})
			close(said)
			return
		}
		close(began)
		<-said
		c.Reply(Reply{Exit: &Exit{Code: 7}})
	})
	go server.Serve(guest)
	first, err := Connect(t.Context(), dial)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if _, err := first.Exec(t.Context(), Exec{}, Streams{}); err == nil {
			t.Error("a call to a guest that has not answered went well")
		}
	}()
	for first.mux.find(1) == nil {
		<-time.After(time.Millisecond)
	}
	if err := first.Settle(t.Context()); err != nil { // the call has come too
		t.Fatal(err)
	}
	first.Close()
	<-gone
	next, err := Connect(t.Context(), dial)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	var out bytes.Buffer
	if exit, err := next.Exec(t.Context(), Exec{}, Streams{Stdout: &out}); err != nil || exit.Code != 7 || out.Len() > 0 {
		t.Errorf("%+v, %q, %v", exit, out.String(), err)
	}
}

// TestPresence is a guest on a line that loses what comes before it reads: the host
// greets in vain, and again when the guest says that it reads now. Before it leaves,
// the guest has read all.
func TestPresence(t *testing.T) {
	host, guest := socketPair(t)
	defer guest.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		lost := make([]byte, len(hello([nonceSize]byte{})))
		if _, err := io.ReadFull(guest, lost); err != nil {
			return
		}
		if _, err := guest.Write(Presence()); err != nil {
			return
		}
		_ = NewServer(writer(guest), echo).Serve(guest)
	}()
	c, err := Connect(t.Context(), once(host))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Settle(t.Context()); err != nil {
		t.Error(err)
	}
	c.Close()
	<-served
}

func TestSilentGuest(t *testing.T) {
	host, guest := socketPair(t)
	defer guest.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := Connect(ctx, once(host))
	if !api.IsKind(err, api.Unavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("err = %v", err)
	}
	c := connected(t, func(*Call) {})
	if err := c.Signal(ctx, 15); !api.IsKind(err, api.Unavailable) {
		t.Errorf("err = %v", err)
	}
}

// TestHostileGuest has a guest break each rule after a call was opened: the
// conversation ends, the call fails, nothing hangs.
func TestHostileGuest(t *testing.T) {
	long := appendFrame(nil, frameData, 1)
	binary.BigEndian.PutUint32(long[6:], 1<<31)
	var flood []byte
	for range windowSize/maxData + 1 {
		flood = appendFrame(flood, frameData, 1, []byte{ChannelStdout}, make([]byte, maxData))
	}
	for name, attack := range map[string][]byte{
		"no frame":         []byte("GET / HTTP/1.0\r\n\r\n"),
		"length 2 GiB":     long,
		"no channel":       appendFrame(nil, frameData, 1),
		"channel 200":      appendFrame(nil, frameData, 1, []byte{200, 1}),
		"flood":            flood,
		"credit from air":  appendFrame(nil, frameWindow, 1, []byte{0, 0, 0, 0, 1}),
		"credit 4 GiB":     appendFrame(nil, frameWindow, 1, []byte{0, 255, 255, 255, 255}),
		"opens a stream":   appendFrame(nil, frameOpen, 9, []byte("{}")),
		"sends a control":  appendFrame(nil, frameControl, 1, []byte("{}")),
		"reply is no JSON": appendFrame(nil, frameReply, 1, []byte("{")),
		"unknown type":     appendFrame(nil, 'Z', 1),
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := socketPair(t)
			defer guest.Close()
			go func() {
				in := bufio.NewReader(guest)
				nonce, err := findGreeting(in, -1)
				if err != nil {
					return
				}
				_, _ = guest.Write(append([]byte("left over from before"), hello(nonce)...))
				if _, err := readFrame(in, make([]byte, maxPayload)); err == nil {
					_, _ = guest.Write(attack)
				}
				_, _ = io.Copy(io.Discard, in)
			}()
			c, err := Connect(t.Context(), once(host))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			// A reader that never reads, so that the window fills.
			block := make(chan struct{})
			defer close(block)
			done := make(chan error, 1)
			go func() {
				_, err := c.Exec(t.Context(), Exec{}, Streams{Stdout: writerFunc(func(p []byte) (int, error) {
					select {
					case <-c.done:
					case <-block:
					}
					return len(p), nil
				})})
				done <- err
			}()
			select {
			case err := <-done:
				if !api.IsKind(err, api.Unavailable) {
					t.Errorf("err = %v; want kind unavailable", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the call hangs")
			}
			if err := c.Signal(t.Context(), 15); err == nil {
				t.Error("the conversation goes on")
			}
		})
	}
}

// stubConn reads what a fuzzer made and forgets what is written.
type stubConn struct{ io.Reader }

func (stubConn) Write(p []byte) (int, error)        { return len(p), nil }
func (stubConn) Close() error                       { return nil }
func (stubConn) SetReadDeadline(t time.Time) error  { return nil }
func (stubConn) SetWriteDeadline(t time.Time) error { return nil }

// FuzzClient feeds a host what a hostile guest may send to a call.
func FuzzClient(f *testing.F) {
	f.Add(appendFrame(nil, frameReply, 1, []byte(`{"exit":{"code":1}}`)))
	f.Add(appendFrame(appendFrame(nil, frameData, 1, []byte{1, 'x'}), frameEnd, 1, []byte{1}))
	f.Add(appendFrame(nil, frameWindow, 1, []byte{0, 0, 0, 0, 1}))
	f.Fuzz(func(t *testing.T, sent []byte) {
		in := bytes.NewReader(sent)
		c := &Client{conn: stubConn{in}, buf: make([]byte, maxPayload), done: make(chan struct{})}
		c.mux = newMux(c.write)
		s, err := c.mux.open(Request{Op: OpTop})
		if err != nil {
			t.Fatal(err)
		}
		c.receive(bufio.NewReader(in))
		for channel := range byte(maxChannels) {
			data, _ := io.ReadAll(channelReader{s, channel})
			if len(data) > windowSize {
				t.Fatalf("%d bytes are more than a window", len(data))
			}
		}
		if _, err := s.wait(); err == nil && s.reply == nil {
			t.Fatal("neither a reply nor an error")
		}
	})
}

// FuzzServer feeds a guest a broken host: it must keep listening.
func FuzzServer(f *testing.F) {
	f.Add(append(hello([nonceSize]byte{}), appendFrame(nil, frameOpen, 1, []byte(`{"op":"exec"}`))...))
	f.Fuzz(func(t *testing.T, sent []byte) {
		s := NewServer(func([]byte) error { return nil }, func(c *Call) { c.Reply(Reply{}) })
		if err := s.Serve(bytes.NewReader(sent)); err == nil {
			t.Fatal("ended without an error")
		}
	})
}

func TestConfigRoundTrip(t *testing.T) {
	want := &Config{
		Layers: 3, Disk: true, OpenStdin: true, Size: Size{Rows: 25, Cols: 1000}, Hostname: "h", MachineID: "0123", Hosts: "a\nb\n", ResolvConf: "c",
		Process:      Process{Args: []string{"true", ""}, Env: []string{"A=\u00e4"}, User: "web", Dir: "/srv"},
		Interfaces:   []Interface{{MAC: "52:54:00:00:00:01", Name: "eth0", Addresses: []string{"10.0.0.2/24", "fd00::2/64"}, Gateway: "10.0.0.1", MTU: 1500}},
		Mounts:       []Mount{{Tag: "share0", Path: "f", Target: "/t", ReadOnly: true}, {Target: "/tmp", Size: 1 << 40, Mode: 0o1777}, {Part: 5, Target: "/p"}},
		Capabilities: 1<<40 | 1, NewPrivs: true, PIDs: -1, Limits: []Limit{{Resource: 7, Soft: 1024, Hard: ^uint64(0)}},
		Step: true,
	}
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeConfig(append(data, make([]byte, 4096)...))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := (&Config{Hosts: strings.Repeat("x", MaxConfig)}).Encode(); err == nil {
		t.Error("a configuration beyond the bound was accepted")
	}
	// As hosts wrote it that knew no Step and no partitions of mounts, and no MachineID.
	older := len(data) - 1 - len(want.Mounts)
	oldest := older - len(want.MachineID) - 1
	for n := range data {
		if _, err := DecodeConfig(data[:n]); (err == nil) != (n == older || n == oldest) {
			t.Errorf("the first %d of %d bytes, taken for a configuration: %v", n, len(data), err)
		}
	}
}

// FuzzConfig decodes what no host wrote: an error, or a configuration that survives
// another round.
func FuzzConfig(f *testing.F) {
	data, err := (&Config{Layers: 1, Process: Process{Args: []string{"a"}}, Limits: []Limit{{Soft: 1}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(configMagic + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeConfig(data)
		if err != nil || len(data) > MaxConfig/16 {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeConfig(again); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%+v became %+v, %v", c, got, err)
		}
	})
}

func TestExitLine(t *testing.T) {
	for _, want := range []Exit{{}, {Code: 137, OOM: true}, {Code: 127, Error: "nope: not found"}, {Code: 255, Error: " "}} {
		if got, err := ParseExit(want.String() + "more"); err != nil || got != want {
			t.Errorf("%q: %+v, %v", want.String(), got, err)
		}
	}
	if got, err := ParseExit(Exit{Error: "two\nlines"}.String()); err != nil || got.Error != "two lines" {
		t.Errorf("two lines: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "\n", "0", "0 0 ", "256 0 \n", "-1 0 \n", "1 2 \n", "x 0 \n", "1 \n", "\x00\x00\n"} {
		if got, err := ParseExit(bad); err == nil {
			t.Errorf("%q was taken for %+v", bad, got)
		}
	}
}
