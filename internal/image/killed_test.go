package image_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/berthcloud/berth/internal/image"
)

// A copy of this test binary works on the store below killRoot until it is killed.
const (
	killRoot = "BERTH_TEST_KILL_ROOT"
	killWork = "BERTH_TEST_KILL_WORK"
	killArg  = "BERTH_TEST_KILL_ARG"
)

// worker prepares the copy.
func worker(root, work, arg string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killRoot+"="+root, killWork+"="+work, killArg+"="+arg)
	return cmd
}

// workUntilKilled is the copy: it does one work, and says how that has ended.
func workUntilKilled(root, work, arg string) {
	s, err := image.Open(root, image.Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ctx := context.Background()
	switch work {
	case "import":
		_, err = s.Import(ctx, os.Stdin, image.ImportOptions{Name: "killed"})
	case "commit":
		_, err = s.Commit(ctx, os.Stdin, image.CommitOptions{Base: arg, Name: "killed"})
	case "pull":
		_, err = s.Pull(ctx, arg, image.PullOptions{})
	case "push":
		_, err = s.Push(ctx, arg, image.PushOptions{})
	case "collect":
		for i := range manyImages {
			fmt.Println(i)
			_, err = s.Remove(ctx, fmt.Sprintf("many:%d", i))
		}
	}
	fmt.Println("ended:", err)
	os.Exit(1)
}

// wasKilled fails the test unless the copy was at work when it was killed.
func wasKilled(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it ended before it was killed: %v", err)
	}
}

// isSound opens a store after a kill: each of its images is whole, no blob is broken,
// nothing of the work is half-done, and a collection finds its way.
func isSound(t *testing.T, root string) (s *image.Store, names map[string]bool) {
	t.Helper()
	s = openAt(t, root, image.Options{})
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names = map[string]bool{}
	for _, img := range list {
		names[img.Name] = true
		if _, err := s.Resolve(t.Context(), img.Name); err != nil {
			t.Errorf("%s: %v", img.Name, err)
		}
	}
	if !names["kept:latest"] {
		t.Errorf("of the images that nobody touched there are %v", names)
	}
	if _, err := s.Collect(t.Context()); err != nil {
		t.Error(err)
	}
	if found, faults := check(t, s, false); found.Broken != 0 || len(faults) != 0 {
		t.Errorf("the store is broken: %+v, %v", found, faults)
	}
	if left, err := os.ReadDir(filepath.Join(root, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	return s, names
}

// storeWithImage makes a store with the image kept, and closes it.
func storeWithImage(t *testing.T, names ...string) (root, digest string) {
	t.Helper()
	root = t.TempDir()
	s := openAt(t, root, image.Options{})
	img := imported(t, s, "kept", rootfs(t, "f", "old"))
	for i, name := range names {
		imported(t, s, name, rootfs(t, "f", fmt.Sprint(i), "same", strings.Repeat("same", 1000)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return root, img.Digest
}

// TestKilledCommit kills a commit at several points of its layer.
func TestKilledCommit(t *testing.T) {
	archive := rootfs(t, "big", strings.Repeat("0123456789", 200_000))
	for _, at := range []int{0, 600, len(archive) - 700} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			root, base := storeWithImage(t)
			killWriting(t, worker(root, "commit", base), archive[:at])
			if _, names := isSound(t, root); len(names) != 1 {
				t.Errorf("there are %v", names)
			}
		})
	}
}

// TestKilledTransfer kills a pull in the middle of a layer and a push in the middle of
// its blobs: neither side has half an image, and both go through when they are tried again.
func TestKilledTransfer(t *testing.T) {
	for _, work := range []string{"pull", "push"} {
		t.Run(work, func(t *testing.T) {
			var mu sync.Mutex
			var victim *exec.Cmd
			set := func(start func() *exec.Cmd) {
				mu.Lock()
				defer mu.Unlock()
				victim = start()
			}
			host := newRegistry(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					now := victim
					mu.Unlock()
					upload := r.Method == http.MethodPatch || r.Method == http.MethodPut
					switch {
					case now == nil || !strings.Contains(r.URL.Path, "/blobs/"):
					case work == "push" && upload:
						_ = now.Process.Kill()
					case work == "pull" && r.Method == http.MethodGet:
						w.Header().Set("Content-Length", "1000000")
						_, _ = io.WriteString(w, "the beginning")
						w.(http.Flusher).Flush()
						_ = now.Process.Kill()
						<-r.Context().Done()
						return
					}
					h.ServeHTTP(w, r)
				})
			})
			name := host + "/app:1"
			var root string
			if work == "pull" {
				push(t, host, "app:1", rootfs(t, "a", strings.Repeat("content ", 10_000)))
				root, _ = storeWithImage(t)
			} else {
				root, _ = storeWithImage(t, name)
			}
			cmd := worker(root, work, name)
			set(func() *exec.Cmd {
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				return cmd
			})
			wasKilled(t, cmd)
			set(func() *exec.Cmd { return nil })
			s, names := isSound(t, root)
			if names[name] != (work == "push") {
				t.Errorf("there are %v", names)
			}
			if work == "push" {
				other := openAt(t, t.TempDir(), image.Options{})
				if _, err := other.Pull(t.Context(), name, image.PullOptions{}); err == nil {
					t.Error("the registry has an image that was pushed in part")
				}
				if _, err := s.Push(t.Context(), name, image.PushOptions{}); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.Pull(t.Context(), name, image.PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// manyImages are what a collection has to do.
const manyImages = 6

// TestKilledCollection kills a store while it removes images one by one, each with a
// collection: what has a name is whole.
func TestKilledCollection(t *testing.T) {
	if testing.Short() {
		t.Skip("it opens many stores")
	}
	var many []string
	for i := range manyImages {
		many = append(many, fmt.Sprintf("many:%d", i))
	}
	for _, after := range []int{0, 3, manyImages - 1} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			root, _ := storeWithImage(t, many...)
			cmd := worker(root, "collect", "")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said := bufio.NewScanner(out)
			for said.Scan() && said.Text() != fmt.Sprint(after) {
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out)
			wasKilled(t, cmd)
			_, names := isSound(t, root)
			for i, name := range many {
				if i < after && names[name] {
					t.Errorf("%s is there again", name)
				}
			}
		})
	}
}
