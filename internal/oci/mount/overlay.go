package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Overlay describes a root filesystem made of layers.
type Overlay struct {
	Lower       []string // topmost first, as overlayfs's lowerdir
	Upper, Work string   // both "" for a read-only root
	IDMap       bool
	Data        []string // other overlayfs options
	Options     Options
}

// ParseOverlay reads the options of a mount of type overlay.
func ParseOverlay(list []string) (Overlay, error) {
	var ov Overlay
	o, err := ParseOptions(list)
	if err != nil {
		return ov, err
	}
	for _, d := range o.Data {
		key, value, _ := strings.Cut(d, "=")
		switch key {
		case "lowerdir":
			ov.Lower = splitEscaped(value)
		case "upperdir":
			ov.Upper = value
		case "workdir":
			ov.Work = value
		default:
			ov.Data = append(ov.Data, d)
		}
	}
	ov.IDMap, o.IDMap, o.Data = o.IDMap, false, nil
	ov.Options = o
	for _, dir := range append([]string{ov.Upper, ov.Work}, ov.Lower...) {
		if dir != "" && !filepath.IsAbs(dir) {
			return ov, fmt.Errorf("overlay directory %q must be absolute", dir)
		}
	}
	switch {
	case len(ov.Lower) == 0:
		return ov, errors.New("overlay: lowerdir is missing")
	case (ov.Upper == "") != (ov.Work == ""):
		return ov, errors.New("overlay: upperdir and workdir must be given together")
	case ov.Upper != "" && filepath.Dir(ov.Upper) != filepath.Dir(ov.Work):
		return ov, errors.New("overlay: upperdir and workdir must stand in one directory")
	}
	return ov, nil
}

// splitEscaped splits at colons that no backslash precedes, as overlayfs does.
func splitEscaped(s string) []string {
	var out []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == ':':
			out = append(out, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	if b.Len() > 0 {
		out = append(out, b.String())
	}
	return out
}

// Mount makes the overlay and returns it detached: nothing is visible on the host,
// and a runtime that is killed leaves nothing behind.
//
// Each layer is cloned and, where asked, id-mapped through userns, so that files
// owned by 0 in a layer belong to the container's root, and files it writes are
// stored with its own ids: neither needs a chown. uid and gid are those of the
// container's root on the host.
func (ov Overlay) Mount(userns, uid, gid int) (int, error) {
	layers, err := ov.openLayers(userns)
	defer closeLayers(layers)
	if err != nil {
		return -1, err
	}
	fd, err := ov.makeAs(uid, gid, layers, ov.make)
	if errors.Is(err, unix.EINVAL) {
		// Before Linux 6.14 overlayfs took only layers that are mounted somewhere
		// (clone_private_mount refused anonymous mount namespaces), and before 6.5 no
		// long list of them but by mount(2), which needs a place.
		fd, err = inPrivateNamespace(func() (int, error) { return ov.makeAs(uid, gid, layers, ov.makeAttached) })
	}
	if err != nil {
		return -1, err
	}
	if err := Finish(fd, ov.Options, -1); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// makeAs makes the overlay with the filesystem ids of the container's root, where
// ids are mapped: overlayfs keeps the credentials of whoever mounts it for what it
// does on its own, such as making its work directory, and our 0 has no id there.
func (ov Overlay) makeAs(uid, gid int, layers []layer, how func([]layer) (int, error)) (fd int, err error) {
	if !ov.IDMap {
		return how(layers)
	}
	err = WithFilesystemIDs(uid, gid, func() (err error) {
		fd, err = how(layers)
		return err
	})
	return fd, err
}

// layer is a clone of a layer's mount, or of the directory that holds the
// writable one.
type layer struct {
	host string
	fd   int
}

func closeLayers(layers []layer) {
	for _, l := range layers {
		unix.Close(l.fd)
	}
}

// path is where overlayfs finds the layer: through the descriptor.
func (l layer) path() string { return "/proc/self/fd/" + strconv.Itoa(l.fd) }

// openLayers opens, or clones with ids mapped, the lower layers in order, and the directory of upper and
// work last.
func (ov Overlay) openLayers(userns int) ([]layer, error) {
	dirs := append([]string(nil), ov.Lower...)
	if ov.Upper != "" {
		dirs = append(dirs, filepath.Dir(ov.Upper))
	}
	var layers []layer
	for _, dir := range dirs {
		var fd int
		var err error
		if ov.IDMap {
			fd, _, err = Bind(dir, Options{IDMap: true}, userns)
		} else {
			fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			return layers, fmt.Errorf("layer %s: %w", dir, err)
		}
		layers = append(layers, layer{dir, fd})
	}
	return layers, nil
}

// make creates the overlay of opened layers. "lowerdir+" appends one layer at a time
// (Linux 6.8); older kernels take all in one option of at most a page, and swallow
// the unknown one until the end.
func (ov Overlay) make(layers []layer) (int, error) {
	fd, err := ov.create(layers, appendLower)
	if errors.Is(err, unix.EINVAL) {
		if old, oldErr := ov.create(layers, joinLower); oldErr == nil {
			return old, nil
		}
	}
	return fd, err
}

// makeAttached is make with each layer mounted in the private mount namespace of the
// calling thread, which nobody else sees: a clone over its own directory, another one
// where it is, opened anew as a part of this namespace.
func (ov Overlay) makeAttached(layers []layer) (int, error) {
	if ov.IDMap {
		for _, l := range layers {
			if err := unix.MoveMount(l.fd, "", unix.AT_FDCWD, l.host, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return -1, &os.PathError{Op: "move_mount", Path: l.host, Err: err}
			}
		}
	} else {
		var err error
		layers, err = ov.openLayers(-1)
		defer closeLayers(layers)
		if err != nil {
			return -1, err
		}
	}
	fd, err := ov.make(layers)
	if errors.Is(err, unix.EINVAL) {
		if old, oldErr := ov.makeByMount(layers); oldErr == nil {
			return old, nil
		}
	}
	return fd, err
}

// makeByMount creates the overlay by mount(2), in the private mount namespace of the
// calling thread. Its options fill a page, about 200 layers; one of fsconfig(2) has 256
// bytes, about 14 layers, until "lowerdir+" does without.
func (ov Overlay) makeByMount(layers []layer) (int, error) {
	var options []string
	comma := strings.NewReplacer(`\`, `\\`, ",", `\,`)
	_ = ov.settings(layers, joinLower, func(key, value string) error {
		options = append(options, key+"="+comma.Replace(value))
		return nil
	})
	data, place := strings.Join(append(options, ov.Data...), ","), layers[0].host
	if err := unix.Mount("overlay", place, "overlay", 0, data); err != nil {
		return -1, fmt.Errorf("overlay: %w", os.NewSyscallError("mount", err))
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	return fd, os.NewSyscallError("open_tree", err)
}

func appendLower(lower []layer, set func(key, value string) error) error {
	for _, l := range lower {
		if err := set("lowerdir+", l.path()); err != nil {
			return err
		}
	}
	return nil
}

func joinLower(lower []layer, set func(key, value string) error) error {
	paths := make([]string, len(lower))
	for i, l := range lower {
		paths[i] = l.path()
	}
	return set("lowerdir", strings.Join(paths, ":"))
}

// settings names the layers.
func (ov Overlay) settings(layers []layer, lower func([]layer, func(k, v string) error) error, set func(key, value string) error) error {
	if err := lower(layers[:len(ov.Lower)], set); err != nil || ov.Upper == "" {
		return err
	}
	parent := layers[len(layers)-1].path()
	if err := set("upperdir", parent+"/"+filepath.Base(ov.Upper)); err != nil {
		return err
	}
	return set("workdir", parent+"/"+filepath.Base(ov.Work))
}

// create asks the kernel for the overlay.
func (ov Overlay) create(layers []layer, lower func([]layer, func(k, v string) error) error) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("overlay: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(fs)
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return fmt.Errorf("overlay: option %s=%s: %w%s", key, value, err, kernelLog(fs))
		}
		return nil
	}
	if err := ov.settings(layers, lower, set); err != nil {
		return -1, err
	}
	if err := configureData(fs, ov.Data); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("overlay: %w%s", err, kernelLog(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("overlay: %w%s", os.NewSyscallError("fsmount", err), kernelLog(fs))
	}
	return fd, nil
}
