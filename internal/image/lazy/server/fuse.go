package server

import (
	"context"
	"encoding/json"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/berthcloud/berth/internal/image/lazy"
)

// serveFUSE serves a filesystem that is mounted already, by its descriptor.
func serveFUSE(device string, all []*served, use *use) (*fuse.Server, error) {
	forever := time.Duration(1<<62 - 1)
	return fs.Mount(device, &root{all: all, use: use}, &fs.Options{
		EntryTimeout: &forever, AttrTimeout: &forever,
		MountOptions: fuse.MountOptions{
			Name: "berth-lazy", MaxWrite: 1 << 20, DisableXAttrs: true,
			// No depth that the kernel takes: it would allow files of other filesystems to be
			// passed through, and for that count this one as stacked, which EROFS cannot be
			// mounted from (process_init_reply in fs/fuse/inode.c, erofs_fc_fill_super).
			MaxStackDepth: -1,
		},
	})
}

// root is the directory: a file for each layer, and their status.
type root struct {
	fs.Inode
	all []*served
	use *use
}

// OnAdd implements fs.NodeOnAdder.
func (r *root) OnAdd(ctx context.Context) {
	add := func(name string, node fs.InodeEmbedder) {
		r.AddChild(name, r.NewPersistentInode(ctx, node, fs.StableAttr{Mode: fuse.S_IFREG}), true)
	}
	for _, l := range r.all {
		add(l.Digest.Encoded(), &imageFile{view: l.view, use: r.use})
	}
	add(lazy.StatusFile, &statusFile{all: r.all, use: r.use})
	add(lazy.EndFile, &endFile{use: r.use})
}

// imageFile is the EROFS image of a layer.
type imageFile struct {
	fs.Inode
	view *view
	use  *use
}

// Getattr implements fs.NodeGetattrer.
func (f *imageFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o400, uint64(f.view.image)
	return 0
}

// Open implements fs.NodeOpener. What has been read never changes.
func (f *imageFile) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := writing(flags); errno != 0 {
		return nil, 0, errno
	}
	f.use.add(1)
	return opened{f.use}, fuse.FOPEN_KEEP_CACHE, 0
}

// opened is an image that somebody has open.
type opened struct{ use *use }

// Release implements fs.FileReleaser.
func (o opened) Release(context.Context) syscall.Errno {
	o.use.add(-1)
	return 0
}

// use is how many images are open, of a server that may be told to end.
type use struct {
	mu     sync.Mutex
	open   int
	ending bool
	ended  chan struct{} // closed when it ends and none is open
}

// add counts images that are opened and closed.
func (u *use) add(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open += n
	u.check()
}

// count returns how many images are open.
func (u *use) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open
}

// end ends the server as soon as no image is open.
func (u *use) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ending = true
	u.check()
}

// check is called with mu held.
func (u *use) check() {
	if !u.ending || u.open > 0 {
		return
	}
	select {
	case <-u.ended:
	default:
		close(u.ended)
	}
}

// endFile tells the server to end.
type endFile struct {
	fs.Inode
	use *use
}

// Getattr implements fs.NodeGetattrer.
func (f *endFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o400
	return 0
}

// Open implements fs.NodeOpener.
func (f *endFile) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := writing(flags); errno != 0 {
		return nil, 0, errno
	}
	f.use.end()
	return nil, 0, 0
}

// Read implements fs.NodeReader: there is nothing.
func (f *endFile) Read(context.Context, fs.FileHandle, []byte, int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultData(nil), 0
}

// Read implements fs.NodeReader. A reader that is killed does not wait for the registry;
// what is begun for it is done, because others may want it.
func (f *imageFile) Read(ctx context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	type answer struct {
		b   []byte
		err error
	}
	read := make(chan answer, 1)
	go func() {
		b := make([]byte, len(p)) // p is the caller's, who may be gone
		n, err := f.view.readAt(context.WithoutCancel(ctx), b, off)
		read <- answer{b[:n], err}
	}()
	select {
	case a := <-read:
		if a.err != nil {
			return nil, syscall.EIO
		}
		return fuse.ReadResultData(a.b), 0
	case <-ctx.Done():
		return nil, syscall.EINTR
	}
}

// statusFile tells how far the layers have come.
type statusFile struct {
	fs.Inode
	all []*served
	use *use
}

// Open implements fs.NodeOpener.
func (f *statusFile) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := writing(flags); errno != 0 {
		return nil, 0, errno
	}
	s := lazy.Status{Open: f.use.count()}
	for _, l := range f.all {
		s.Layers = append(s.Layers, l.status())
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, 0, syscall.EIO
	}
	return statusText(b), fuse.FOPEN_DIRECT_IO, 0 // its size is not known before
}

// Getattr implements fs.NodeGetattrer.
func (f *statusFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o400
	return 0
}

// statusText is a status as it was when the file was opened.
type statusText []byte

// Read implements fs.FileReader.
func (t statusText) Read(_ context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	from := min(off, int64(len(t)))
	return fuse.ReadResultData(t[from:min(from+int64(len(p)), int64(len(t)))]), 0
}

// writing refuses to open a file for that.
func writing(flags uint32) syscall.Errno {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return syscall.EROFS
	}
	return 0
}
