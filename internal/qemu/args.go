package qemu

import (
	"fmt"
	"strconv"
)

// builder fills a plan. Each method adds one part of the machine.
type builder struct {
	m    Machine
	plan *Plan
	next int // descriptor
}

func (b *builder) add(args ...string) { b.plan.Args = append(b.plan.Args, args...) }

// open has a file opened and returns its descriptor.
func (b *builder) open(path, mode string) int {
	fd := b.next
	b.next++
	b.plan.Files = append(b.plan.Files, File{FD: fd, Path: path, Mode: mode})
	return fd
}

// fdset has a file opened into a descriptor set, which QEMU opens like a path.
func (b *builder) fdset(set int, path, mode string) string {
	b.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", b.open(path, mode), set))
	return "/dev/fdset/" + strconv.Itoa(set)
}

// listen has a socket made and adds its chardev.
func (b *builder) listen(id, path string) {
	b.plan.Sockets = append(b.plan.Sockets, Socket{FD: b.next, Path: path})
	b.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, b.next))
	b.next++
}

// device names a virtio device for the machine's bus.
func (b *builder) device(name, options string) {
	suffix := "-device"
	if b.m.Type == Q35 {
		suffix = "-pci"
	}
	if options != "" {
		options = "," + options
	}
	b.add("-device", name+suffix+options)
}

func (b *builder) board() {
	m := b.m
	b.add(m.QEMU,
		"-name", "guest="+m.Name,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		// The processor waits for QMP's cont, so that nobody misses output.
		"-S",
		// obsolete: system calls that no current kernel interface needs;
		// elevateprivileges: set*id; spawn: fork and exec; resourcecontrol:
		// affinity and priorities (qemu(1)).
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	// virtiofs wants memory that its server can map.
	backend := "memory-backend-ram"
	if len(m.Shares) > 0 {
		backend = "memory-backend-memfd"
	}
	object := fmt.Sprintf("%s,id=ram,size=%d", backend, m.Memory)
	if len(m.Shares) > 0 {
		object += ",share=on"
	}
	b.add("-object", object, "-m", fmt.Sprintf("size=%dk", m.Memory>>10), "-smp", strconv.Itoa(m.CPUs))
	switch m.Type {
	case MicroVM:
		// Linux waits a second for the clock of a board that has none: rtc=on.
		b.add("-machine", "microvm,memory-backend=ram,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off",
			// SeaBIOS's microvm build hangs now and then; qboot does not.
			"-bios", "qboot.rom",
			// virtiofs needs virtio 1.0, which mmio transports speak only when told to.
			"-global", "virtio-mmio.force-legacy=false")
	case Q35:
		b.add("-machine", "q35,memory-backend=ram,vmport=off,smbus=off,sata=off,hpet=off")
	}
	if m.KVM {
		b.add("-accel", "kvm", "-cpu", "host")
		b.plan.Devices = append(b.plan.Devices, "/dev/kvm")
		return
	}
	// The processor is x86-64-v2, which distributions begin to demand, and a
	// random number generator, without which Linux waits for entropy. "max"
	// boots slower. The buffer of translated code grows to its limit in any
	// guest and is memory of the host.
	b.add("-accel", "tcg,tb-size=32", "-cpu", "qemu64,+cx16,+lahf-lm,+popcnt,+ssse3,+sse4.1,+sse4.2,+rdrand")
}

func (b *builder) boot() {
	// QEMU opens these by name only; its user may read them.
	b.add("-kernel", fmt.Sprintf("/proc/self/fd/%d", b.open(b.m.Kernel, "r")))
	if b.m.Initrd != "" {
		b.add("-initrd", fmt.Sprintf("/proc/self/fd/%d", b.open(b.m.Initrd, "r")))
	}
	b.add("-append", b.m.Cmdline)
}

func (b *builder) monitor() {
	b.listen("qmp", b.m.QMP)
	b.add("-mon", "chardev=qmp,mode=control")
	// The guest's console is QEMU's own output: whoever keeps the process has
	// its last words.
	b.add("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console")
}

func (b *builder) ports() {
	if len(b.m.Ports) == 0 {
		return
	}
	b.device("virtio-serial", "")
	for i, p := range b.m.Ports {
		id := "port" + strconv.Itoa(p.Number)
		if p.Socket != "" {
			b.listen(id, p.Socket)
		} else {
			b.add("-chardev", "file,id="+id+",append=on,path="+b.fdset(10+i, p.File, "a"))
		}
		b.add("-device", fmt.Sprintf("virtserialport,nr=%d,chardev=%s,name=%s", p.Number, id, p.Name))
	}
}

func (b *builder) disks() {
	for i, d := range b.m.Disks {
		mode, access := "rw", "discard=unmap,detect-zeroes=unmap"
		if d.ReadOnly {
			mode, access = "r", "read-only=on"
		}
		for k, extent := range d.Extents {
			b.fdset(extentSet(i, k), extent, mode)
		}
		// Both nodes state their driver: nothing a guest writes into the file
		// makes QEMU read it as another format (Cloud Hypervisor GHSA-jmr4-g2hv-mjj6).
		b.add("-blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=%s,%s", i, b.fdset(100+i, d.Path, mode), access),
			"-blockdev", fmt.Sprintf("driver=%s,node-name=disk%d,file=file%d,%s", d.Format, i, i, access))
		b.device("virtio-blk", fmt.Sprintf("drive=disk%d,serial=%s", i, d.Serial))
	}
}

func (b *builder) nics() {
	for i, n := range b.m.NICs {
		b.plan.Taps = append(b.plan.Taps, Tap{FD: b.next, Name: n.Tap})
		b.add("-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, b.next))
		b.next++
		options := fmt.Sprintf("netdev=net%d,mac=%s", i, n.MAC)
		if b.m.Type == Q35 {
			options += ",romfile=" // no network boot
		}
		b.device("virtio-net", options)
	}
}

func (b *builder) shares() {
	for i, s := range b.m.Shares {
		b.plan.Connect = append(b.plan.Connect, Socket{FD: b.next, Path: s.Socket})
		b.add("-chardev", fmt.Sprintf("socket,id=share%d,fd=%d", i, b.next))
		b.next++
		b.device("vhost-user-fs", fmt.Sprintf("chardev=share%d,tag=%s", i, s.Tag))
	}
}

// helpers adds what every guest has.
func (b *builder) helpers() {
	b.add("-object", "rng-builtin,id=rng")
	b.device("virtio-rng", "rng=rng")
	// Pages the guest frees go back to the host; deflate-on-oom gives them back
	// before the guest's kernel kills for want of memory.
	b.device("virtio-balloon", "free-page-reporting=on,deflate-on-oom=on")
}
