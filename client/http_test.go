package client

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
)

// answered sends a request to a server that answers with text, whatever it is asked.
func answered(t testing.TB, text string) (*exchange, error) {
	t.Helper()
	own, server := net.Pipe()
	done := make(chan struct{})
	t.Cleanup(func() { own.Close(); <-done })
	go func() {
		defer close(done)
		defer server.Close()
		if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
			_, _ = io.WriteString(server, text)
		}
	}()
	return roundTrip(t.Context(), own, "GET / HTTP/1.1\r\nHost: berth\r\n", nil)
}

func TestAnswers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		text, body, trailer string
		err                 error // of the head or the body
	}{
		{text: ok + "Content-Length: 5\r\n\r\nhello, and more", body: "hello"},
		{text: ok + "content-length: 0\r\n\r\n"},
		{text: ok + "\r\nto the end", body: "to the end"},
		{text: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\nContent-Length: 1\n\nx", body: "x"},
		{text: "HTTP/1.1 204 No Content\r\n\r\nnone"},
		{text: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nB;ext=1\r\n, and more.\r\n0\r\nX: y: z \r\n\r\n", body: "hello, and more.", trailer: "y: z"},
		{text: ok + "Content-Length: 5\r\n\r\nhell", body: "hell", err: io.ErrUnexpectedEOF},
		{text: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", body: "hel", err: io.ErrUnexpectedEOF},
		{text: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", body: "hello", err: io.ErrUnexpectedEOF},
		{text: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", body: "hello", err: io.ErrUnexpectedEOF},
		{text: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n", body: "hello", err: errAnswer},
		{text: ok + "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", err: errAnswer},
		{text: ok + "Content-Length: -1\r\n\r\n", err: errAnswer},
		{text: ok + "Content-Length: 99999999999999999999\r\n\r\n", err: errAnswer},
		{text: ok + "no colon\r\n\r\n", err: errAnswer},
		{text: ok + strings.Repeat("A: b\r\n", headLines) + "\r\n", err: errAnswer},
		{text: ok + "A: " + strings.Repeat("b", headLine) + "\r\n\r\n", err: errAnswer},
		{text: ok, err: io.ErrUnexpectedEOF},
		{text: "HTTP/1.1 200", err: io.ErrUnexpectedEOF},
		{text: "", err: io.EOF},
		{text: "HTTP/2 200 OK\r\n\r\n", err: errAnswer},
		{text: "HTTP/1.1 2000 OK\r\n\r\n", err: errAnswer},
		{text: "HTTP/1.1 -20 OK\r\n\r\n", err: errAnswer},
		{text: "SSH-2.0-OpenSSH_9.2\r\n", err: errAnswer},
	} {
		x, err := answered(t, c.text)
		var body []byte
		trailer := ""
		if err == nil {
			body, err = io.ReadAll(x.body)
			trailer = x.trailer["x"]
			x.close()
		}
		if !errors.Is(err, c.err) || string(body) != c.body || trailer != c.trailer {
			t.Errorf("%q:\ngot  %q, %q, %v\nwant %q, %q, %v", c.text, body, trailer, err, c.body, c.trailer, c.err)
		}
	}
}

// TestUploadIsRefusedMeanwhile: an answer that comes before the body was sent arrives,
// and so does the failure of what the body is read from.
func TestUploadIsRefusedMeanwhile(t *testing.T) {
	c := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/instances/full/files" {
			w.WriteHeader(http.StatusInsufficientStorage)
			_, _ = io.WriteString(w, `{"kind":"exhausted","message":"no space left"}`)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	endless := readerFunc(func(p []byte) (int, error) { return len(p), nil })
	if err := c.CopyIn(t.Context(), "full", "/", endless); !api.IsKind(err, api.Exhausted) {
		t.Errorf("%v", err)
	}
	lost := errors.New("disk lost")
	if err := c.CopyIn(t.Context(), "web", "/", io.MultiReader(strings.NewReader("x"), failing{lost})); !errors.Is(err, lost) || strings.Contains(err.Error(), "berthd") {
		t.Errorf("%v", err)
	}
	if err := c.CopyIn(t.Context(), "web", "/", strings.NewReader("whole")); err != nil {
		t.Errorf("%v", err)
	}
}

// TestAnswerIsBrokenOff: a body that the server gives up is not taken for a whole one.
func TestAnswerIsBrokenOff(t *testing.T) {
	c := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	if err := c.CopyOut(t.Context(), "web", "/", io.Discard); !api.IsKind(err, api.Unavailable) || !strings.HasPrefix(err.Error(), "lost the connection to berthd") {
		t.Errorf("%v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// listen serves h on a socket.
func listen(t *testing.T, h http.Handler) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-served })
	c, err := New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func FuzzAnswer(f *testing.F) {
	f.Add("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	f.Add("HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nBerth-Problem: {}\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		x := &exchange{r: bufio.NewReaderSize(strings.NewReader(text), headLine)}
		if x.readHead() != nil {
			return
		}
		if body, _ := io.ReadAll(x.body); len(body) > len(text) {
			t.Errorf("%d bytes of %d", len(body), len(text))
		}
	})
}
