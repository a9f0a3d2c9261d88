package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
)

// What an appliance asks for where it is imported, which an image says nothing of and
// the importing user can change.
const (
	ovfCPUs   = 1
	ovfMemory = 1024 // MiB
)

// ovfEnvelope is the root of an OVF descriptor, version 1 (DMTF DSP0243 1.1.0), which
// every reader of version 2 takes too. The prefixes are declared as attributes, because
// some readers know them by name only.
type ovfEnvelope struct {
	XMLName  xml.Name   `xml:"Envelope"`
	Spaces   []xml.Attr `xml:",any,attr"`
	Files    []ovfFile  `xml:"References>File"`
	Disks    ovfDisks   `xml:"DiskSection"`
	Networks ovfNetwork `xml:"NetworkSection"`
	System   ovfSystem  `xml:"VirtualSystem"`
}

type ovfFile struct {
	Href string `xml:"ovf:href,attr"`
	ID   string `xml:"ovf:id,attr"`
	Size int64  `xml:"ovf:size,attr"`
}

type ovfDisks struct {
	Info string `xml:"Info"`
	Disk struct {
		Capacity int64  `xml:"ovf:capacity,attr"`
		Units    string `xml:"ovf:capacityAllocationUnits,attr"`
		ID       string `xml:"ovf:diskId,attr"`
		File     string `xml:"ovf:fileRef,attr"`
		Format   string `xml:"ovf:format,attr"`
	} `xml:"Disk"`
}

type ovfNetwork struct {
	Info    string `xml:"Info"`
	Network struct {
		Name        string `xml:"ovf:name,attr"`
		Description string `xml:"Description"`
	} `xml:"Network"`
}

type ovfSystem struct {
	ID       string      `xml:"ovf:id,attr"`
	Info     string      `xml:"Info"`
	Name     string      `xml:"Name"`
	OS       ovfOS       `xml:"OperatingSystemSection"`
	Hardware ovfHardware `xml:"VirtualHardwareSection"`
}

type ovfOS struct {
	ID          int    `xml:"ovf:id,attr"`
	Info        string `xml:"Info"`
	Description string `xml:"Description"`
}

type ovfHardware struct {
	Info   string `xml:"Info"`
	System struct {
		Name       string `xml:"vssd:ElementName"`
		ID         int    `xml:"vssd:InstanceID"`
		Identifier string `xml:"vssd:VirtualSystemIdentifier"`
		Type       string `xml:"vssd:VirtualSystemType"`
	} `xml:"System"`
	Items  []ovfItem  `xml:"Item"`
	Config *vmwConfig `xml:"vmw:Config"`
}

// ovfItem is a device. The schema (CIM_ResourceAllocationSettingData) has its elements
// in the order of the alphabet.
type ovfItem struct {
	Address         string `xml:"rasd:Address,omitempty"`
	AddressOnParent string `xml:"rasd:AddressOnParent,omitempty"`
	Units           string `xml:"rasd:AllocationUnits,omitempty"`
	Automatic       string `xml:"rasd:AutomaticAllocation,omitempty"`
	Connection      string `xml:"rasd:Connection,omitempty"`
	Name            string `xml:"rasd:ElementName"`
	Host            string `xml:"rasd:HostResource,omitempty"`
	ID              int    `xml:"rasd:InstanceID"`
	Parent          string `xml:"rasd:Parent,omitempty"`
	Subtype         string `xml:"rasd:ResourceSubType,omitempty"`
	Type            int    `xml:"rasd:ResourceType"`
	Quantity        string `xml:"rasd:VirtualQuantity,omitempty"`
}

// vmwConfig is what VMware says more of a machine, in a namespace of its own.
type vmwConfig struct {
	Required bool   `xml:"ovf:required,attr"`
	Key      string `xml:"vmw:key,attr"`
	Value    string `xml:"vmw:value,attr"`
}

// Values of rasd:ResourceType, and of CIM_OperatingSystem.OSType.
const (
	cimProcessor = 3
	cimMemory    = 4
	cimIDE       = 5
	cimEthernet  = 10
	cimDisk      = 17
	cimLinux64   = 101
)

const ovfNetworkName = "default"

// ovfDescriptor describes a machine with one disk, whose file has size bytes. Its devices
// are those that a guest needs the least drivers for.
func ovfDescriptor(name, file string, size int64, d Disk) ([]byte, error) {
	space := func(prefix, uri string) xml.Attr { return xml.Attr{Name: xml.Name{Local: prefix}, Value: uri} }
	const ovf, cim = "http://schemas.dmtf.org/ovf/envelope/1", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
	e := ovfEnvelope{
		Spaces: []xml.Attr{
			space("xmlns", ovf), space("xmlns:ovf", ovf), space("xmlns:rasd", cim+"CIM_ResourceAllocationSettingData"),
			space("xmlns:vssd", cim+"CIM_VirtualSystemSettingData"), space("xmlns:vmw", "http://www.vmware.com/schema/ovf"),
		},
		Files: []ovfFile{{Href: file, ID: "file1", Size: size}},
	}
	e.Disks.Info = "The disks"
	disk := &e.Disks.Disk
	disk.Capacity, disk.Units, disk.ID, disk.File = d.Size, "byte", "disk1", "file1"
	disk.Format = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
	e.Networks.Info = "The networks"
	e.Networks.Network.Name, e.Networks.Network.Description = ovfNetworkName, "A network with a way out"
	s := &e.System
	s.ID, s.Info, s.Name = name, "A virtual machine", name
	s.OS = ovfOS{ID: cimLinux64, Info: "The operating system", Description: "Linux, 64 bits, or another"}
	h := &s.Hardware
	h.Info = "The hardware"
	h.System.Name, h.System.Identifier, h.System.Type = "Virtual Hardware Family", name, "vmx-10"
	h.Items = []ovfItem{
		{Name: "processors", ID: 1, Type: cimProcessor, Units: "hertz * 10^6", Quantity: fmt.Sprint(ovfCPUs)},
		{Name: "memory", ID: 2, Type: cimMemory, Units: "byte * 2^20", Quantity: fmt.Sprint(ovfMemory)},
		{Name: "IDE controller", ID: 3, Type: cimIDE, Address: "0", Subtype: "PIIX4"},
		{Name: "disk", ID: 4, Type: cimDisk, AddressOnParent: "0", Host: "ovf:/disk/disk1", Parent: "3"},
		{Name: "network card", ID: 5, Type: cimEthernet, Automatic: "true", Connection: ovfNetworkName, Subtype: "E1000"},
	}
	if d.Firmware == api.FirmwareUEFI {
		h.Config = &vmwConfig{Key: "firmware", Value: "efi"}
	}
	text, err := xml.MarshalIndent(e, "", "  ")
	return append([]byte(xml.Header), append(text, '\n')...), err
}

// applianceName is what the files of an appliance are called: the image's last name and
// its tag, in letters that every reader takes.
func applianceName(image string) string {
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
			return r
		}
		return '-'
	}, path.Base(image))
	return strings.TrimLeft(name, ".-")
}

// writeOVA writes an appliance: the descriptor, the manifest with the digests of all
// other files, and the disk, in the order that the specification wants (DSP0243, 5.3).
func writeOVA(ctx context.Context, w io.Writer, name, vmdk string, d Disk) error {
	file, err := os.Open(vmdk)
	if err != nil {
		return err
	}
	defer file.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, contextReader{ctx, file})
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	diskName := name + "-disk1.vmdk"
	descriptor, err := ovfDescriptor(name, diskName, size, d)
	if err != nil {
		return err
	}
	manifest := fmt.Sprintf("SHA256(%s.ovf)= %x\nSHA256(%s)= %x\n", name, sha256.Sum256(descriptor), diskName, hash.Sum(nil))
	out := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		size int64
		data io.Reader
	}{
		{name + ".ovf", int64(len(descriptor)), strings.NewReader(string(descriptor))},
		{name + ".mf", int64(len(manifest)), strings.NewReader(manifest)},
		{diskName, size, contextReader{ctx, file}},
	} {
		h := &tar.Header{Name: f.name, Size: f.size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if f.size >= 8<<30 { // what the specification's ustar cannot say
			h.Format = tar.FormatGNU
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(onlyWriter{out}, f.data, make([]byte, 1<<20)); err != nil {
			return err
		}
	}
	return out.Close()
}
