package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// idFile is the file of --cidfile. It is made before the instance, so that
// two commands cannot claim the same one.
type idFile struct {
	f       *os.File
	written bool
}

// reserveIDFile makes the file; "" asks for none.
func reserveIDFile(name string) (*idFile, error) {
	if name == "" {
		return &idFile{}, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("--cidfile: %s exists; remove it, or name another file", name)
	} else if err != nil {
		return nil, fmt.Errorf("--cidfile: %w", err)
	}
	return &idFile{f: f}, nil
}

// write writes the id.
func (i *idFile) write(id string) error {
	if i.f == nil {
		return nil
	}
	if _, err := i.f.WriteString(id); err != nil {
		return fmt.Errorf("--cidfile: %w", err)
	}
	i.written = true
	return nil
}

// release closes the file, and removes it where nothing was written.
func (i *idFile) release() {
	if i.f == nil {
		return
	}
	i.f.Close()
	if !i.written {
		_ = os.Remove(i.f.Name())
	}
}
