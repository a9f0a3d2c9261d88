package qemu

import (
	"fmt"
	"slices"
	"strconv"
)

// builder fills a plan. Each method adds one part of the machine.
type builder struct {
	m    Machine
	plan *Plan
	next int // descriptor

	sata, ide int // disks on each
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

// show has a file appear in QEMU's root, for what QEMU opens by name only, and returns
// its name there. QEMU's user must have a right to it; mode is as in Shown.
func (b *builder) show(name, path, mode string) string {
	b.plan.Shown = append(b.plan.Shown, Shown{Path: path, Name: name, Mode: mode})
	return name
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
	if b.m.pci() {
		suffix = "-pci"
	}
	if options != "" {
		options = "," + options
	}
	b.add("-device", name+suffix+options)
}

func (b *builder) board() {
	m := b.m
	b.add(m.QEMU, "-name", "guest="+m.Name, "-nodefaults", "-no-user-config", "-display", "none")
	if !m.Reboots {
		b.add("-no-reboot")
	}
	b.add(
		// The processor waits for QMP's cont, so that nobody misses output.
		"-S",
		// obsolete: system calls that no current kernel interface needs;
		// elevateprivileges: set*id; spawn: fork and exec; resourcecontrol:
		// affinity and priorities (qemu(1)).
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	memory, cpus := fmt.Sprintf("size=%dk", m.Memory>>10), strconv.Itoa(m.CPUs)
	if m.MaxMemory > m.Memory {
		memory += fmt.Sprintf(",maxmem=%dk,slots=%d", m.MaxMemory>>10, memorySlots)
	}
	if m.MaxCPUs > m.CPUs {
		cpus = fmt.Sprintf("cpus=%d,maxcpus=%d", m.CPUs, m.MaxCPUs)
	}
	b.add("-object", b.memory(), "-m", memory, "-smp", cpus)
	b.boardType()
	b.clock()
	b.processor()
	b.display()
}

// display adds the graphics card, and what belongs to it.
func (b *builder) display() {
	switch {
	case b.m.Graphics && b.m.Type == Virt: // it has no VGA
		b.add("-device", "virtio-gpu-pci")
	case b.m.Type != Virt && b.m.Firmware == NoFirmware && b.m.Graphics:
		// qboot takes the memory of VGA's window for its tables.
		b.add("-device", "bochs-display")
	case b.m.Type != Virt && b.m.Firmware != NoFirmware && (b.m.Graphics || b.m.Full):
		b.add("-device", "VGA")
	}
	if !b.m.Graphics {
		return
	}
	// A tablet's pointer is where the user's is.
	b.add("-device", "qemu-xhci,id=usb", "-device", "usb-kbd,bus=usb.0", "-device", "usb-tablet,bus=usb.0",
		// The server listens nowhere: clients are handed to it (add_client). Without
		// a password set by the monitor it lets nobody in. power-control would let
		// a client end the machine past Berth; it is off by default.
		"-vnc", "none,password=on")
}

// memory is the object that is the guest's memory.
func (b *builder) memory() string {
	rest := fmt.Sprintf("id=ram,size=%d", b.m.Memory)
	switch {
	case b.m.Template != nil && b.m.Template.RAM == "":
		// All of it is in the state that is loaded.
	case b.m.Template != nil && b.m.Template.Copy:
		// QEMU opens it by name, for writing too; and a sealed file in memory has no
		// name but that of a descriptor.
		fd := b.open(b.m.Template.RAM, "rw")
		return fmt.Sprintf("memory-backend-file,%s,mem-path=%s/%d,share=off", rest, b.show("/fd", "/proc/self/fd", ""), fd)
	case b.m.Template != nil:
		return fmt.Sprintf("memory-backend-file,%s,mem-path=%s,share=on", rest, b.show("/ram", b.m.Template.RAM, "rw"))
	case len(b.m.Shares) > 0:
		// virtiofs wants memory that its server can map.
		return "memory-backend-memfd," + rest + ",share=on"
	}
	return "memory-backend-ram," + rest
}

// boardType adds the board and what it starts with.
func (b *builder) boardType() {
	// Of all memory of the machine's, what is added to it and its firmware's too.
	rest := ",memory-backend=ram,mem-merge=" + onOff(b.m.Mergeable)
	if b.m.Firmware == UEFI {
		rest += ",pflash0=uefi,pflash1=vars"
	}
	switch b.m.Type {
	case MicroVM:
		// Linux waits a second for the clock of a board that has none: rtc=on.
		b.add("-machine", "microvm,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off"+rest,
			// virtiofs needs virtio 1.0, which mmio transports speak only when told to.
			"-global", "virtio-mmio.force-legacy=false")
	case Q35:
		b.add("-machine", "q35,vmport=off,smbus=off,sata=off,hpet=off"+rest)
	case PC:
		b.add("-machine", "pc,vmport=off,smbus=off,hpet=off"+rest)
	case Virt:
		b.add("-machine", "virt,gic-version=max"+rest)
		return // it starts kernels by itself
	}
	if b.m.Firmware == NoFirmware {
		// Of microvm's two firmwares, SeaBIOS hangs now and then; qboot does not.
		b.add("-bios", "qboot.rom")
	}
}

// clock sets the board's clock otherwise than to UTC.
func (b *builder) clock() {
	if !b.m.LocalTime {
		return
	}
	if b.m.Zone != "" {
		b.show("/etc/localtime", b.m.Zone, "") // where the C library looks
	}
	b.add("-rtc", "base=localtime,driftfix=slew")
}

func (b *builder) processor() {
	if b.m.KVM {
		b.add("-accel", "kvm")
		b.plan.Devices = append(b.plan.Devices, "/dev/kvm")
	} else {
		b.add("-accel", fmt.Sprintf("tcg,tb-size=%d", b.m.codeBuffer()))
	}
	b.add("-cpu", b.m.CPU)
}

func (b *builder) boot() {
	copied := b.m.Template != nil && b.m.Template.Copy
	if copied || b.m.Incoming {
		b.add("-incoming", "defer") // it has booted
	}
	if copied || b.m.Kernel == "" {
		return
	}
	b.add("-kernel", b.show("/kernel", b.m.Kernel, ""))
	if b.m.Initrd != "" {
		b.add("-initrd", b.show("/initrd", b.m.Initrd, ""))
	}
	b.add("-append", b.m.Cmdline)
}

// uefi adds the two flash memories of UEFI.
func (b *builder) uefi() {
	if b.m.Firmware != UEFI {
		return
	}
	b.add("-blockdev", fmt.Sprintf("driver=file,node-name=uefi-file,filename=%s,read-only=on", b.fdset(90, b.m.UEFICode, "r")),
		"-blockdev", "driver=raw,node-name=uefi,file=uefi-file,read-only=on",
		"-blockdev", "driver=file,node-name=vars-file,filename="+b.fdset(91, b.m.UEFIVars, "rw"),
		"-blockdev", "driver=raw,node-name=vars,file=vars-file")
}

func (b *builder) monitor() {
	b.listen("qmp", b.m.QMP)
	b.add("-mon", "chardev=qmp,mode=control")
	if b.m.Console == "" {
		// The guest's console is QEMU's own input and output: whoever keeps the
		// process has its last words.
		b.add("-chardev", "stdio,id=console,signal=off")
	} else {
		b.listen("console", b.m.Console)
	}
	b.add("-serial", "chardev:console")
}

func (b *builder) ports() {
	if len(b.m.Ports) == 0 {
		return
	}
	if !b.m.Full {
		b.device("virtio-serial", "")
	}
	for i, p := range b.m.Ports {
		id := "port" + strconv.Itoa(p.Number)
		switch {
		case p.Socket != "":
			b.listen(id, p.Socket)
		case p.File != "":
			b.add("-chardev", "file,id="+id+",append=on,path="+b.fdset(10+i, p.File, "a"))
		default:
			b.add("-chardev", "null,id="+id)
		}
		if b.m.Full {
			b.add("-device", fmt.Sprintf("pci-serial,chardev=%s,addr=%#x", id, p.Slot))
		} else {
			b.add("-device", fmt.Sprintf("virtserialport,nr=%d,chardev=%s,name=%s", p.Number, id, p.Name))
		}
	}
}

func (b *builder) disks() {
	if slices.ContainsFunc(b.m.Disks, func(d Disk) bool { return d.Bus == AHCI }) {
		b.add("-device", "ich9-ahci,id=ahci")
	}
	for i, d := range b.m.Disks {
		b.blocks(i, d)
		options := fmt.Sprintf("drive=disk%d,serial=%s", i, d.Serial)
		if d.BootIndex > 0 {
			options += fmt.Sprintf(",bootindex=%d", d.BootIndex)
		}
		drive := "ide-hd"
		if d.CDROM {
			drive = "ide-cd"
		}
		switch d.Bus {
		case AHCI:
			b.add("-device", fmt.Sprintf("%s,bus=ahci.%d,%s", drive, b.sata, options))
			b.sata++
		case IDE: // two channels, two disks on each
			b.add("-device", fmt.Sprintf("%s,bus=ide.%d,unit=%d,%s", drive, b.ide/2, b.ide%2, options))
			b.ide++
		default:
			b.device("virtio-blk", options)
		}
	}
}

// blocks adds the nodes that read a disk's files, the topmost named disk%d.
func (b *builder) blocks(i int, d Disk) {
	if d.Format == Null {
		b.add("-blockdev", fmt.Sprintf("driver=null-co,read-zeroes=on,size=%d,node-name=disk%d%s", d.Size, i, map[bool]string{true: ",read-only=on"}[d.ReadOnly]))
		return
	}
	mode, access := "rw", writable
	if d.ReadOnly {
		mode, access = "r", "read-only=on"
	} else if d.Transient {
		access += ",cache.no-flush=on"
	}
	for k, extent := range d.Extents {
		b.fdset(extentSet(i, k), extent, mode)
	}
	top := fmt.Sprintf("disk%d", i)
	format := top
	if d.Overlay != "" {
		format = fmt.Sprintf("base%d", i)
	}
	// Every node states its driver: nothing a guest writes into the file
	// makes QEMU read it as another format (Cloud Hypervisor GHSA-jmr4-g2hv-mjj6).
	b.add("-blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=%s,%s", i, b.fdset(100+i, d.Path, mode), access),
		"-blockdev", fmt.Sprintf("driver=%s,node-name=%s,file=file%d,%s", d.Format, format, i, access))
	if d.Overlay != "" {
		b.add("-blockdev", fmt.Sprintf("driver=file,node-name=over%d,filename=%s,%s", i, b.fdset(200+i, d.Overlay, "rw"), writable),
			"-blockdev", fmt.Sprintf("driver=qcow2,node-name=%s,file=over%d,backing=%s,%s", top, i, format, writable))
	}
}

// writable are the options of a node that takes writes.
const writable = "discard=unmap,detect-zeroes=unmap"

func (b *builder) nics() {
	for i, n := range b.m.NICs {
		options := "mac=" + n.MAC
		if n.Tap != "" {
			b.plan.Taps = append(b.plan.Taps, Tap{FD: b.next, Name: n.Tap})
			b.add("-netdev", fmt.Sprintf("tap,id=%s,fd=%d", netdev(i), b.next))
			b.next++
			options = fmt.Sprintf("netdev=%s,%s", netdev(i), options)
		}
		if b.m.pci() {
			options += ",romfile=" // no network boot
		}
		if n.Model == VirtioNIC {
			b.device("virtio-net", options)
		} else {
			b.add("-device", string(n.Model)+","+options)
		}
	}
}

// netdev is what QEMU calls what is at the other end of a network card.
func netdev(nic int) string { return "net" + strconv.Itoa(nic) }

// connect has a helper's socket connected to and adds its chardev.
func (b *builder) connect(id, path string) {
	b.plan.Connect = append(b.plan.Connect, Socket{FD: b.next, Path: path})
	b.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, b.next))
	b.next++
}

// tpm adds the TPM, by the interface that current guests prefer.
func (b *builder) tpm() {
	if b.m.TPM == "" {
		return
	}
	b.connect("tpm", b.m.TPM)
	device := "tpm-crb"
	if b.m.Type == Virt {
		device = "tpm-tis-device"
	}
	b.add("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", device+",tpmdev=tpm0")
}

// events adds what tells of a machine that stands still.
func (b *builder) events() {
	if b.m.Events != "" {
		b.listen("events", b.m.Events)
		b.add("-mon", "chardev=events,mode=control")
	}
	if !b.m.Crashes {
		return
	}
	b.add("-device", "pvpanic-pci", "-action", "panic=pause,watchdog=pause")
	if b.m.Watchdog {
		b.add("-device", "i6300esb")
	}
}

func (b *builder) shares() {
	for i, s := range b.m.Shares {
		b.connect(fmt.Sprintf("share%d", i), s.Socket)
		b.device("vhost-user-fs", fmt.Sprintf("chardev=share%d,tag=%s", i, s.Tag))
	}
}

// helpers adds what every guest has that knows virtio.
func (b *builder) helpers() {
	if b.m.Full {
		return
	}
	b.add("-object", "rng-builtin,id=rng")
	b.device("virtio-rng", "rng=rng")
	// Pages the guest frees go back to the host, unless they are a template's, which
	// cannot be given up one by one; deflate-on-oom gives them back before the guest's
	// kernel kills for want of memory.
	b.device("virtio-balloon", "free-page-reporting="+onOff(b.m.Template == nil)+",deflate-on-oom=on")
}

// generation adds the VM generation id (Microsoft's "Virtual Machine Generation ID"),
// which QEMU chooses, and tells the guest of when it goes on from a saved state. Linux
// takes that for a reason to forget its randomness (drivers/virt/vmgenid.c, Linux 5.18).
func (b *builder) generation() {
	if b.m.GenerationID {
		b.add("-device", "vmgenid,guid=auto")
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
