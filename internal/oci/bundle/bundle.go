// Package bundle reads the config.json of an OCI bundle and checks that it does
// not contradict itself, before anything is made of it.
//
// Every error is one line that begins with the field: "mounts[3].destination:
// must be an absolute path". The file comes from whoever called the runtime, so
// nothing in it may make the reader panic, hang or use much memory.
package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MaxSize bounds a config.json, in bytes. The largest known ones, with a full
// seccomp profile and hundreds of mounts, have 200 KiB.
const MaxSize = 4 << 20

// ConfigName is the file in the bundle directory.
const ConfigName = "config.json"

// Bundle is a checked configuration and where it came from.
type Bundle struct {
	Dir  string // absolute
	Spec *specs.Spec
	Raw  []byte // the file as it was read
}

// Load reads and checks the bundle in dir.
func Load(dir string) (*Bundle, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", dir, err)
	}
	raw, err := read(filepath.Join(abs, ConfigName))
	if err != nil {
		return nil, err
	}
	spec, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ConfigName, err)
	}
	return &Bundle{Dir: abs, Spec: spec, Raw: raw}, nil
}

func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a named pipe must not make us wait
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf(`%s: no such file; is the bundle directory right? (--bundle) (bundle.md: "This REQUIRED file MUST reside in the root of the bundle directory")`, path)
		}
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	if st.Size() > MaxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than %d are refused", path, st.Size(), MaxSize)
	}
	return ReadAll(f, int(st.Size()))
}

// ReadAll reads a file to its end, which is expected after size bytes, and refuses one
// that has more than MaxSize.
func ReadAll(f *os.File, size int) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // not to grow for the end of file
	if _, err := buf.ReadFrom(io.LimitReader(f, MaxSize+1)); err != nil {
		return nil, err
	}
	if buf.Len() > MaxSize {
		return nil, fmt.Errorf("%s: more than %d bytes are refused", f.Name(), MaxSize)
	}
	return buf.Bytes(), nil
}

// Parse decodes and checks a config.json.
func Parse(raw []byte) (*specs.Spec, error) {
	spec, err := decodeSpec(raw)
	if err != nil {
		return nil, err
	}
	if err := check(spec); err != nil {
		return nil, err
	}
	return spec, nil
}

// ParseProcess decodes and checks the process.json of exec --process.
func ParseProcess(raw []byte) (*specs.Process, error) {
	p, err := decodeProcess(raw)
	if err != nil {
		return nil, err
	}
	return p, CheckProcess(p)
}

// decodeError says where the JSON is wrong, with the field where there is one.
func decodeError(err error) error {
	var typ *json.UnmarshalTypeError
	if errors.As(err, &typ) && typ.Field != "" {
		return fmt.Errorf("%s: a JSON %s does not fit", typ.Field, typ.Value)
	}
	if syn, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("byte %d: %w", syn.Offset, err)
	}
	return fmt.Errorf("not valid JSON: %w", err)
}

// checkVersion accepts every 1.x: "the runtime MUST … generate an error" for a
// version it does not support (config.md, Specification version).
func checkVersion(v string) error {
	if v == "" {
		return errors.New(`ociVersion: missing (config.md: "ociVersion (string, REQUIRED)")`)
	}
	major, rest, ok := strings.Cut(v, ".")
	_, err := strconv.Atoi(major)
	if !ok || err != nil || rest == "" {
		return fmt.Errorf(`ociVersion: %q is not a SemVer version (config.md: "MUST be in SemVer v2.0.0 format")`, v)
	}
	if major != "1" {
		return fmt.Errorf(`ociVersion: %q is not supported; this runtime knows 1.x, up to %s (config.md: "retains forward and backward compatibility within major versions")`, v, specs.Version)
	}
	return nil
}
