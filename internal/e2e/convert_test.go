package e2e

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/testenv"
)

// convertScenarios make disks of root filesystems, and the other way round.
var convertScenarios = []scenario{
	{"convert to a root filesystem", localOnly, vms, convertsToRootfs},
	{"convert to a disk", localOnly, vms, convertsToDisk},
	{"convert there and back", localOnly, vms, convertsThereAndBack},
	{"convert a Debian", localOnly, vms, convertsDebian},
	{"convert, killed", localOnly, vms, convertKilled},
	{"convert refused", localOnly, vms, convertRefused},
}

// oddTree fills a directory with what a root filesystem can have, and a machine's own.
const oddTree = `set -e
	mkdir -p bin etc opt dev lost+found var/lib/systemd
	cp /bin/busybox bin/busybox; for name in sh ls cat stat id; do ln -s busybox bin/$name; done
	echo 'ID=odd' >etc/os-release; echo 0123456789abcdef0123456789abcdef >etc/machine-id; echo /dev/vda / ext4 >etc/fstab; echo seed >var/lib/systemd/random-seed
	echo kept >etc/kept; chown 5:6 etc/kept; chmod 640 etc/kept; ln etc/kept twice
	mkfifo opt/pipe; mknod dev/odd c 1 3; mknod opt/none c 0 0; chmod 4755 bin/busybox; truncate -s 1m opt/sparse
	printf '#!/bin/sh\n' >bin/ping; setcap cap_net_raw+ep bin/ping 2>/dev/null || true; touch -d @1000000000 etc/kept; chmod 751 .`

// oddSeen shows what oddTree has left, as a container of it sees it.
const oddSeen = `ls -ln /etc/kept /twice | busybox awk '{print $1,$2,$3,$4}'; stat -c %Y /etc/kept; stat -c %a /bin/busybox; ` +
	`busybox stat -c %F /opt/pipe; busybox wc -c </opt/sparse; cat /etc/machine-id /etc/fstab; ls /lost+found /var/lib/systemd 2>/dev/null; true`

// convertsToRootfs makes images of disks: with a partition table and without, of either
// filesystem. What only the machine had is not in them.
func convertsToRootfs(t *testing.T, w *world, _ api.Kind) {
	dir := testenv.Dir(t)
	tree, raw := filepath.Join(dir, "tree"), filepath.Join(dir, "disk.raw")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.Shell(t, w.Machine, "cd "+tree+"; "+oddTree)
	// Two partitions have systems; the table says which is the root.
	other := filepath.Join(dir, "other")
	testenv.Shell(t, w.Machine, fmt.Sprintf(`set -e; mkdir -p %[1]s.d/sbin; : >%[1]s.d/sbin/init; truncate -s 96m %[2]s
		mkfs.ext4 -q -F -d %[1]s.d %[1]s %[3]dk; mkfs.ext4 -q -F -E offset=%[4]d -d %[5]s %[2]s %[6]dk`,
		other, raw, disk.ESPSize>>10, disk.RootOffset, tree, disk.RootSize(96<<20)>>10))
	file, err := os.OpenFile(raw, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	parts := disk.BootDisk{Size: 96 << 20, Boot: make([]byte, disk.Sector), Core: make([]byte, 2*disk.Sector), ESP: other}
	if err := errors.Join(parts.Write(file), file.Close()); err != nil {
		t.Fatal(err)
	}
	w.Berth(t, "image", "import", raw, "disk/odd")
	w.later(t, "image", "rm", "disk/odd")
	if made := w.Berth(t, "image", "convert", "disk/odd", "odd"); made != "odd:latest" {
		t.Errorf("convert says %q", made)
	}
	w.later(t, "image", "rm", "odd")
	w.Berth(t, "image", "convert", "-q", "--to", "rootfs", "--format", "{{.Type}}", "disk/odd", "again")
	w.later(t, "image", "rm", "again")
	if one, two := w.Berth(t, "image", "inspect", "--format", "{{.Digest}}", "odd"), w.Berth(t, "image", "inspect", "--format", "{{.Digest}}", "again"); one != two {
		t.Errorf("one disk has made %s and %s", one, two)
	}
	want := "-rw-r----- 2 5 6\n-rw-r----- 2 5 6\n1000000000\n4755\nfifo\n1048576\n/var/lib/systemd:\n"
	expect(t, "the image", w.Try(t.Context(), "run", "--rm", "--network", "none", "odd", "busybox", "sh", "-c", oddSeen), 0, want)
}

// convertsToDisk makes a disk of an image with a command and no init of its own, and runs
// it: by Berth, which reaches into it, and in a bare QEMU, by both firmwares.
func convertsToDisk(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "box", "-e", "COLOR=blue", "--network", "none", "base", "sh", "-c", `echo "$COLOR $(id -u) $(cat /kept)"; trap "echo bye; exit" TERM; while :; do sleep 1; done`)
	w.Berth(t, "exec", "box", "sh", "-c", "echo kept >/kept")
	w.Berth(t, "commit", "box", "made")
	w.later(t, "image", "rm", "made")
	if name := w.Berth(t, "image", "convert", "made", "disk/made"); name != "disk/made:latest" {
		t.Errorf("convert says %q", name)
	}
	w.later(t, "image", "rm", "disk/made")
	w.start(t, api.VM, "guest", "--hostname", "ship", "disk/made")
	w.logged(t, "guest", "blue 0 kept")
	expect(t, "exec", w.Try(t.Context(), "exec", "guest", "hostname"), 0, "ship\n")
	w.Berth(t, "stop", "guest")
	w.logged(t, "guest", "bye")
	raw := filepath.Join(testenv.Dir(t), "made.raw")
	w.Berth(t, "image", "export", "--format", "raw", "-o", raw, "disk/made")
	for _, firmware := range [][]string{nil, {"-bios", "/usr/share/ovmf/OVMF.fd"}} {
		bareBoot(t, raw, "blue 0 kept", firmware...)
	}
}

// bareBoot starts a disk in a QEMU that knows nothing of Berth, until its serial line says
// something.
func bareBoot(t *testing.T, raw, want string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args = append([]string{"-M", "q35,accel=tcg", "-m", "384", "-display", "none", "-nodefaults", "-serial", "stdio", "-snapshot", "-drive", "file=" + raw + ",format=raw,if=virtio"}, args...)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	buf := make([]byte, 4096)
	for err == nil && !strings.Contains(said.String(), want) {
		var n int
		n, err = out.Read(buf)
		said.Write(buf[:n])
	}
	cancel()
	_ = cmd.Wait() // it was killed
	if !strings.Contains(said.String(), want) {
		t.Errorf("in a bare QEMU with %q it says\n%s", args, said.String())
	}
}

// convertsThereAndBack makes a disk of an image, and an image of the disk: every file is
// what it was, but for those that only a machine has.
func convertsThereAndBack(t *testing.T, w *world, _ api.Kind) {
	dir := testenv.Dir(t)
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.Shell(t, w.Machine, "cd "+tree+"; "+oddTree+"; rm opt/none; tar -c --xattrs --xattrs-include='*' --format=posix -f ../tree.tar .")
	w.Berth(t, "image", "import", filepath.Join(dir, "tree.tar"), "there")
	w.later(t, "image", "rm", "there")
	for _, name := range []string{"disk/there", "disk/same"} {
		w.Berth(t, "image", "convert", "-q", "--size", "256m", "there", name)
		w.later(t, "image", "rm", name)
	}
	same := func(field string) bool {
		return w.Berth(t, "image", "inspect", "--format", field, "disk/there") == w.Berth(t, "image", "inspect", "--format", field, "disk/same")
	}
	if same("{{.Created}}") && !same("{{.Digest}}") { // a day may have begun
		t.Error("one image has made two disks")
	}
	w.Berth(t, "image", "convert", "-q", "disk/there", "back")
	w.later(t, "image", "rm", "back")
	there, back := treeOf(t, w, "there"), treeOf(t, w, "back")
	for _, name := range []string{"./etc/machine-id", "./etc/fstab"} {
		there[name] = back[name]
	}
	for _, name := range []string{".", "./lost+found", "./var/lib/systemd/random-seed"} { // every instance's root is the same
		delete(there, name)
		delete(back, name)
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if there[name] != back[name] {
			t.Errorf("%s was %s and is %q", name, there[name], back[name])
		}
		delete(back, name)
	}
	for name, what := range back {
		t.Errorf("%s is new: %s", name, what)
	}
	if cmd := w.Berth(t, "image", "inspect", "--format", "{{.Config.Command}}", "back"); cmd != "[/bin/sh]" {
		t.Errorf("the image's command has become %s", cmd)
	}
}

// treeOf returns all that the one layer of an image says of its files.
func treeOf(t *testing.T, w *world, name string) map[string]string {
	t.Helper()
	archive := filepath.Join(testenv.Dir(t), "image.tar")
	w.Berth(t, "image", "export", "-o", archive, name)
	layer := w.Berth(t, "image", "inspect", "--format", "{{(index .Layers 0).Digest}}", name)
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	outer := tar.NewReader(file)
	for {
		h, err := outer.Next()
		if err != nil {
			t.Fatalf("the layer of %s: %v", name, err)
		}
		if strings.HasSuffix(h.Name, strings.TrimPrefix(layer, "sha256:")) {
			break
		}
	}
	files, inner := map[string]string{}, tar.NewReader(outer)
	for {
		h, err := inner.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, inner); err != nil {
			t.Fatal(err)
		}
		xattrs := ""
		for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(key, "SCHILY.xattr.") {
				xattrs += fmt.Sprintf(" %s=%x", key, h.PAXRecords[key])
			}
		}
		path := strings.TrimSuffix(h.Name, "/")
		files[path] = fmt.Sprintf("%c %o %d:%d %d %d:%d %q %x%s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Devmajor, h.Devminor, h.Linkname, sum.Sum(nil), xattrs)
	}
}

// convertsDebian makes an image of a machine's disk, which runs as a container, and a disk
// of that again, which starts the kernel and the init that came along.
func convertsDebian(t *testing.T, w *world, _ api.Kind) {
	w.Berth(t, "image", "import", "--agent", debianDisk(t, "openssh-server"), "disk/debian:12")
	w.later(t, "image", "rm", "disk/debian:12")
	w.Berth(t, "image", "convert", "-q", "disk/debian:12", "debian:once")
	w.later(t, "image", "rm", "debian:once")
	expect(t, "as a container", w.Try(t.Context(), "run", "--rm", "--network", "none", "debian:once", "sh", "-c", "dpkg-query -W -f '${Status}' openssh-server; wc -c </etc/machine-id; ls /boot/berth /usr/local/sbin/berth-agent 2>/dev/null"), 2, "install ok installed0\n")
	w.Berth(t, "image", "convert", "-q", "debian:once", "disk/debian:again")
	w.later(t, "image", "rm", "disk/debian:again")
	w.start(t, api.VM, "again", "--memory", "384m", "--hostname", "ship", "disk/debian:again")
	testenv.Eventually(t, 8*time.Minute, func() error {
		r := w.Try(t.Context(), "exec", "again", "sh", "-c", "hostname; df --output=size -BG / | tail -1; test -s /etc/machine-id && ps -o comm= 1")
		if r.Exit != 0 {
			return fmt.Errorf("it has not booted: %s\n%s", r, w.Try(t.Context(), "logs", "--tail", "20", "again"))
		}
		if got := strings.Fields(r.Stdout); !slices.Equal(got, []string{"ship", "10G", "systemd"}) {
			t.Errorf("it says %q", got)
		}
		return nil
	})
}

// convertKilled ends a conversion while a machine reads a disk, by Ctrl-C and by killing
// berthd: neither leaves a machine, an instance or an image.
func convertKilled(t *testing.T, w *world, _ api.Kind) {
	w.Berth(t, "image", "convert", "-q", "--size", "256m", "base", "disk/base")
	w.later(t, "image", "rm", "disk/base")
	pid := filepath.Join(testenv.Dir(t), "pid")
	asked, machine := beginConversion(t, w, "echo $$ >"+pid)
	testenv.Shell(t, w.Machine, "kill -INT $(cat "+pid+")")
	conversionLeavesNothing(t, w, asked, machine)
	asked, machine = beginConversion(t, w, "true")
	w.Kill(t)
	result := <-asked
	asked <- result
	w.Start(t)
	conversionLeavesNothing(t, w, asked, machine)
}

// beginConversion converts a disk, after a command of the shell that becomes the client,
// and returns once a machine reads it.
func beginConversion(t *testing.T, w *world, first string) (asked chan testenv.Result, machine string) {
	t.Helper()
	asked = make(chan testenv.Result, 1)
	line := first + "; BERTH_HOST=unix://" + w.Socket() + " exec " + w.Machine.Programs() + "/berth image convert -q disk/base made"
	go func() { asked <- w.Machine.Do(t.Context(), testenv.Command{Argv: []string{"sh", "-c", line}}) }()
	testenv.Eventually(t, time.Minute, func() error {
		pids := w.PIDs(t, "qemu-system-x86_64")
		if len(pids) == 0 {
			return errors.New("no machine runs")
		}
		machine = pids[0]
		return nil
	})
	return asked, machine
}

func conversionLeavesNothing(t *testing.T, w *world, asked <-chan testenv.Result, machine string) {
	t.Helper()
	if r := <-asked; r.Exit == 0 {
		t.Errorf("it has made an image: %s", r)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if left := w.Berth(t, "ps", "-a", "--format", "{{.Names}}"); left != "" {
			return errors.New("there is " + left)
		}
		return w.noProcess(t, machine)
	})
	refused(t, "no image was made", w.Try(t.Context(), "image", "inspect", "made"), 1, "made")
}

func convertRefused(t *testing.T, w *world, _ api.Kind) {
	raw := filepath.Join(testenv.Dir(t), "sector.raw")
	if err := os.WriteFile(raw, bootSector(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Berth(t, "image", "import", raw, "disk/sector")
	w.later(t, "image", "rm", "disk/sector")
	convert := func(args ...string) testenv.Result {
		return w.Try(t.Context(), append([]string{"image", "convert", "-q"}, args...)...)
	}
	strangeDisks(t, w, convert)
	refused(t, "no root", convert("disk/sector", "made"), 1, "disk/sector", "no root filesystem")
	refused(t, "a disk of a disk", convert("--to", "disk", "disk/sector", "made"), 1, "disk/sector", "is a disk already")
	refused(t, "a size", convert("--size", "1g", "disk/sector", "made"), 1, "disk/sector", "--size")
	refused(t, "no image", convert("nothere", "made"), 1, "nothere")
	refused(t, "a bad name", convert("disk/sector", "UPPER"), 1, "UPPER")
	refused(t, "nothing was made", w.Try(t.Context(), "image", "inspect", "made"), 1, "made")
}

// strangeDisks are disks that no root filesystem is read from: each says why.
func strangeDisks(t *testing.T, w *world, convert func(...string) testenv.Result) {
	dir := testenv.Dir(t)
	testenv.Shell(t, w.Machine, "set -e; cd "+dir+`
		truncate -s 16m lvm torn data dirty; printf LABELONE | dd of=lvm bs=512 seek=1 conv=notrunc status=none
		printf '\123\357' | dd of=torn bs=1 seek=1080 conv=notrunc status=none
		mkfs.ext4 -q -F data; mkfs.ext4 -q -F dirty; debugfs -w -R 'feature needs_recovery' dirty 2>/dev/null`)
	for name, word := range map[string]string{
		"lvm": "LVM", "torn": "cannot be read", "data": "neither an init", "dirty": "was not unmounted",
	} {
		w.Berth(t, "image", "import", "--format", "raw", filepath.Join(dir, name), "disk/"+name)
		w.later(t, "image", "rm", "disk/"+name)
		refused(t, name, convert("disk/"+name, "made"), 1, "disk/"+name, word)
	}
}
