package qemu

import (
	"bytes"
	"context"
	"image/png"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestScreenshot looks at the display of a real QEMU, twice, and at one that has none.
func TestScreenshot(t *testing.T) {
	for name, devices := range map[string][]string{"VGA": {"-device", "VGA"}, "none": nil} {
		socket := filepath.Join(t.TempDir(), "qmp")
		cmd := exec.Command(program(t), append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-S",
			"-qmp", "unix:" + socket + ",server=on,wait=off"}, devices...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		t.Cleanup(func() { cmd.Process.Kill() })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var m *Monitor
		var err error
		for m, err = Dial(ctx, socket); err != nil && ctx.Err() == nil; m, err = Dial(ctx, socket) {
			<-time.After(time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for range 2 {
			shot, err := m.Screenshot(ctx)
			if devices == nil {
				if err == nil || !strings.Contains(err.Error(), "screendump") {
					t.Errorf("without a display: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if image, err := png.Decode(bytes.NewReader(shot)); err != nil || image.Bounds().Empty() {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := m.Quit(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// pixel is a PNG image of one pixel.
const pixel = "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU" +
	"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"

func TestReadPNG(t *testing.T) {
	if got, err := readPNG(strings.NewReader(pixel + "\x00\x00rest")); err != nil || string(got) != pixel {
		t.Errorf("%q, %v", got, err)
	}
	for name, bad := range map[string]string{
		"nothing":       "",
		"no PNG":        "GIF89a",
		"no end":        pixel[:len(pixel)-1],
		"no chunk":      pixel[:8],
		"no header":     pixel[:8] + pixel[33:],
		"two headers":   pixel[:33] + pixel[8:],
		"damaged":       strings.Replace(pixel, "IDATx", "IDATy", 1),
		"endless chunk": pixel[:33] + "\xff\xff\xff\xffIDAT",
	} {
		if _, err := readPNG(strings.NewReader(bad)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzPNG reads what a QEMU that was taken over may write.
func FuzzPNG(f *testing.F) {
	f.Add([]byte(pixel))
	f.Fuzz(func(t *testing.T, written []byte) {
		image, err := readPNG(bytes.NewReader(written))
		if err == nil && !bytes.HasPrefix(written, image) {
			t.Errorf("%q is not what was written: %q", image, written)
		}
	})
}
