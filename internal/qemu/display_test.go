package qemu

import (
	"bytes"
	"image/png"
	"strings"
	"testing"
)

// TestScreenshot looks at the display of a real QEMU, twice, and at one that has none.
func TestScreenshot(t *testing.T) {
	for name, devices := range map[string][]string{"VGA": {"-device", "VGA"}, "none": nil} {
		m, ended, ctx := monitored(t, append([]string{"-machine", "q35"}, devices...)...)
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
