package parse

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Env reads the value of -e: NAME=VALUE, or NAME to take the value from the
// client's environment; a name that is not set there yields "".
func Env(s string, lookup func(string) (string, bool)) (string, error) {
	name, _, valued := strings.Cut(s, "=")
	if name == "" || strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("%q is not a variable; write NAME=VALUE or NAME", s)
	}
	if valued {
		return s, nil
	}
	if v, ok := lookup(name); ok {
		return name + "=" + v, nil
	}
	return "", nil
}

// maxLine bounds a line of a file of variables or labels, in bytes.
const maxLine = 1 << 20

// Lines reads a file of variables or labels: one per line; blank lines and
// lines that begin with # are skipped; blanks before a name are too. The name
// of the file is for errors.
func Lines(r io.Reader, file string) ([]string, error) {
	var lines []string
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimLeft(s.Text(), " \t")
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, _ := strings.Cut(line, "=")
		if name == "" || strings.ContainsAny(name, " \t") || strings.ContainsRune(line, 0) {
			return nil, fmt.Errorf("%s line %d: %q is not a name; write NAME=VALUE", file, n, name)
		}
		lines = append(lines, line)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return lines, nil
}

// Labels reads NAME[=VALUE] pairs.
func Labels(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	labels := make(map[string]string, len(pairs))
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		if name == "" {
			return nil, fmt.Errorf("%q is not a label; write NAME=VALUE", p)
		}
		labels[name] = value
	}
	return labels, nil
}

// Filters reads KEY=VALUE pairs into the values of each key.
func Filters(pairs []string) (map[string][]string, error) {
	filters := map[string][]string{}
	for _, p := range pairs {
		key, value, ok := strings.Cut(p, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q is not a filter; write KEY=VALUE as in name=web", p)
		}
		filters[key] = append(filters[key], value)
	}
	return filters, nil
}
