package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/qemu"
)

// templates keeps templates in a directory, each in one of its own by the name of its
// key, which appears by a rename when it is whole:
//
//	KEY/ram     the memory, sparse; root's alone
//	KEY/state   the devices
//	new/        the one that is being made
//
// A copy must not be able to change the memory of the others, and QEMU opens its
// memory's file for writing in any case. So while a template is in use, its memory
// is also a sealed file in memory (memfd_create(2), F_SEAL_WRITE): all copies share
// its pages, and nobody can write to it, whoever has it open.
type templates struct {
	dir  string
	most int // kept at a time

	making chan struct{} // one at a time

	mu     sync.Mutex // guards what follows
	loaded map[string]*template
	wanted map[string]qemu.Machine // by key: would have served a machine that was booted instead
	failed map[string]bool         // keys that could not be made or used; not tried again
}

// template is one in use.
type template struct {
	key   string
	state string   // path
	ram   *os.File // sealed

	users int
	idle  *time.Timer // lets the memory go
}

// templateIdle is how long the memory of a template stays when nobody has asked for
// it: as long as layers stay mounted.
const templateIdle = 5 * time.Minute

func newTemplates(dir string, most int) *templates {
	return &templates{
		dir: dir, most: most, making: make(chan struct{}, 1),
		loaded: map[string]*template{}, wanted: map[string]qemu.Machine{}, failed: map[string]bool{},
	}
}

// path is where a launcher finds the template's memory.
func (t *template) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), t.ram.Fd()) }

// has reports whether there is a template with the key.
func (s *templates) has(key string) bool {
	if s.hopeless(key) {
		return false
	}
	_, err := os.Stat(filepath.Join(s.dir, key))
	return err == nil
}

// hopeless reports whether the template with the key failed.
func (s *templates) hopeless(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[key]
}

// take returns the template with a key, which the caller gives back by release; nil
// where there is none.
func (s *templates) take(key string) (*template, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed[key] {
		return nil, nil
	}
	t := s.loaded[key]
	if t == nil {
		var err error
		if t, err = s.load(key); t == nil || err != nil {
			return nil, err
		}
		s.loaded[key] = t
	}
	t.users++
	t.idle.Stop()
	now := time.Now()
	_ = os.Chtimes(filepath.Join(s.dir, key), now, now) // the one used longest ago goes first
	return t, nil
}

// load reads the memory of a template into a sealed file in memory.
func (s *templates) load(key string) (*template, error) {
	dir := filepath.Join(s.dir, key)
	file, err := os.Open(filepath.Join(dir, "ram"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	ram, err := newMemfd("berth-template")
	if err != nil {
		return nil, err
	}
	err = disk.CopyFile(ram, file)
	if err == nil {
		_, err = unix.FcntlInt(ram.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		ram.Close()
		return nil, fmt.Errorf("read the memory of template %s: %w", key, err)
	}
	t := &template{key: key, state: filepath.Join(dir, "state"), ram: ram}
	t.idle = time.AfterFunc(templateIdle, func() { s.unload(t) })
	return t, nil
}

// newMemfd makes a file in memory that can be sealed, and not executed where the
// kernel knows that (Linux 6.3).
func newMemfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (s *templates) release(t *template) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.users--
	switch {
	case t.users > 0:
	case s.loaded[t.key] == t:
		t.idle.Reset(templateIdle)
	default: // removed meanwhile
		t.ram.Close()
	}
}

// unload lets the memory of a template go that nobody is about to use. The copies
// that run have it mapped.
func (s *templates) unload(t *template) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.users == 0 && s.loaded[t.key] == t {
		s.forget(t.key)
	}
}

// forget takes a template out of use; the last release lets its memory go. The caller
// holds mu.
func (s *templates) forget(key string) {
	t := s.loaded[key]
	if t == nil {
		return
	}
	delete(s.loaded, key)
	t.idle.Stop()
	if t.users == 0 {
		t.ram.Close()
	}
}

// close lets the memory of all templates go.
func (s *templates) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.loaded {
		s.forget(key)
	}
}

// distrust removes a template that could not be used. It is not made again before
// berthd is: whatever is wrong with it would be wrong again.
func (s *templates) distrust(key string) error {
	s.mu.Lock()
	s.failed[key] = true
	s.mu.Unlock()
	return s.remove(key)
}

// want notes that a machine was booted that could have been a copy.
func (s *templates) want(key string, m qemu.Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.failed[key] {
		s.wanted[key] = m
	}
}

// next takes a wish.
func (s *templates) next() (key string, m qemu.Machine, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, m = range s.wanted {
		delete(s.wanted, key)
		return key, m, true
	}
	return "", qemu.Machine{}, false
}

// publish makes the template in new/ the one with the key, and removes what it
// replaces and what is too much.
func (s *templates) publish(key string) error {
	if err := os.Rename(filepath.Join(s.dir, "new"), filepath.Join(s.dir, key)); err != nil {
		return err
	}
	list, err := s.list()
	if err != nil {
		return err
	}
	errs := []error{}
	kept := 0
	for _, t := range list {
		old := t.ID != key && layoutOf(t.ID) == layoutOf(key)
		if kept++; !old && kept <= s.most {
			continue
		}
		errs = append(errs, s.remove(t.ID))
	}
	return errors.Join(errs...)
}

// remove removes a template. Copies that run go on, and one that is about to begin
// has it open.
func (s *templates) remove(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(key)
	return os.RemoveAll(filepath.Join(s.dir, key))
}

// list returns the templates, the one used last first.
func (s *templates) list() ([]api.Template, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []api.Template
	for _, entry := range entries {
		if entry.Name() == "new" {
			continue
		}
		var info, ram, state unix.Stat_t
		dir := filepath.Join(s.dir, entry.Name())
		if unix.Stat(dir, &info) != nil || unix.Stat(dir+"/ram", &ram) != nil || unix.Stat(dir+"/state", &state) != nil {
			continue // removed meanwhile
		}
		list = append(list, api.Template{ID: entry.Name(), Size: (ram.Blocks + state.Blocks) * 512, Used: time.Unix(info.Mtim.Unix()).UTC()})
	}
	slices.SortFunc(list, func(a, b api.Template) int { return b.Used.Compare(a.Used) })
	return list, nil
}

// Templates lists the saved machines.
func (d *Driver) Templates(context.Context) ([]api.Template, error) { return d.templates.list() }

// RemoveTemplate removes a saved machine.
func (d *Driver) RemoveTemplate(_ context.Context, id string) error { return d.templates.remove(id) }
