package disk

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds one uncompressed kernel module, in bytes.
const maxModule = 64 << 20

// Module is a kernel module ready to be loaded.
type Module struct {
	Name string // as modprobe knows it, with underscores
	Data []byte // the ELF file, uncompressed
}

// Modules finds kernel modules below a directory such as lib/modules/RELEASE.
// Dependencies are read from the modules themselves, so depmod(8) need not
// have run: a package that is unpacked but not installed is enough.
type Modules struct {
	root    fs.FS
	files   map[string]string // name → file
	builtin map[string]bool
}

// OpenModules indexes the modules below root.
func OpenModules(root fs.FS) (*Modules, error) {
	m := &Modules{root: root, files: map[string]string{}, builtin: map[string]bool{}}
	err := fs.WalkDir(root, ".", func(file string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && strings.Contains(path.Base(file), ".ko") {
			m.files[moduleName(file)] = file
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	builtin, err := fs.ReadFile(root, "modules.builtin")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(builtin)) {
		m.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return m, nil
}

// Order returns the modules to load, in order, for the named ones to work: each
// after all that it needs, none twice, none that is built into the kernel. A
// name that the kernel does not have is an error that names it.
func (m *Modules) Order(names ...string) ([]Module, error) {
	o := ordering{from: m, seen: map[string]bool{}}
	for _, name := range names {
		if err := o.add(name, 0); err != nil {
			return nil, err
		}
	}
	return o.list, nil
}

// Has reports whether the kernel has the module, built in or not.
func (m *Modules) Has(name string) bool {
	name = strings.ReplaceAll(name, "-", "_")
	return m.builtin[name] || m.files[name] != ""
}

// ordering walks dependencies depth first.
type ordering struct {
	from *Modules
	seen map[string]bool
	list []Module
}

func (o *ordering) add(name string, depth int) error {
	name = strings.ReplaceAll(name, "-", "_")
	if o.seen[name] || o.from.builtin[name] {
		return nil
	}
	if depth > 32 {
		return fmt.Errorf("kernel module %s: its dependencies go round in a circle", name)
	}
	file, found := o.from.files[name]
	if !found {
		return fmt.Errorf("the kernel has no module %s", name)
	}
	data, err := o.from.read(file)
	if err != nil {
		return err
	}
	needs, err := moduleDepends(data)
	if err != nil {
		return fmt.Errorf("kernel module %s: %w", name, err)
	}
	for _, need := range needs {
		if err := o.add(need, depth+1); err != nil {
			return err
		}
	}
	o.seen[name] = true
	o.list = append(o.list, Module{Name: name, Data: data})
	return nil
}

// read returns a module's uncompressed content.
func (m *Modules) read(file string) ([]byte, error) {
	f, err := m.root.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch path.Ext(file) {
	case ".xz":
		r, err = xz.NewReader(bufio.NewReader(f))
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule)); err == nil {
			defer z.Close()
			r = z
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("more than %d bytes", maxModule)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return stripSignature(data), nil
}

// signatureMark ends a signed module, after the signature and a structure of
// twelve bytes whose last four are the signature's length, big endian
// (include/linux/module_signature.h).
const signatureMark = "~Module signature appended~\n"

// stripSignature removes a module's signature. Checking it is for kernels that
// get modules from somebody they do not trust; a guest's come with its kernel,
// and an emulated processor would check them for a tenth of a second.
func stripSignature(module []byte) []byte {
	rest, signed := bytes.CutSuffix(module, []byte(signatureMark))
	if !signed || len(rest) < 12 {
		return module
	}
	size := int64(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	if int64(len(rest)) < 12+size {
		return module
	}
	return rest[:int64(len(rest))-12-size]
}

// moduleDepends reads "depends=a,b" from a module's .modinfo section, which
// modpost fills with zero-terminated KEY=VALUE strings.
func moduleDepends(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	section := file.Section(".modinfo")
	if section == nil || section.Size > uint64(len(module)) {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if value, found := strings.CutPrefix(field, "depends="); found && value != "" {
			return slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return s == "" }), nil
		}
	}
	return nil, nil
}

// moduleName turns a path into the name modprobe knows: kernel/fs/a-b.ko.xz → a_b.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
