package image

import (
	"archive/tar"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// OVA is the format of an appliance: a tar archive of an OVF descriptor and disks in
// VMDK (DMTF DSP0243, section 5.3). Of it only the disk becomes an image, and the
// firmware; what else the descriptor asks for, a user says to berth run.
const OVA disk.Format = "ova"

// maxDescriptor bounds an OVF descriptor, in bytes.
const maxDescriptor = 1 << 20

// spoolOVA writes the one disk of an appliance to a file, and returns its firmware, ""
// where nothing is said of it.
func (s *Store) spoolOVA(file string, r io.Reader) (firmware api.Firmware, err error) {
	disks := 0
	in := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF) && disks == 0:
			return "", api.E("", api.Invalid, "", errors.New("the appliance has no disk in VMDK; name the format that the file really has"))
		case errors.Is(err, io.EOF):
			return firmware, nil
		case err != nil:
			return "", damaged("tar", err)
		case n >= maxArchiveEntries:
			return "", api.E("", api.Exhausted, "", fmt.Errorf("more than %d entries", maxArchiveEntries))
		case h.Typeflag != tar.TypeReg:
			continue
		}
		switch strings.ToLower(path.Ext(h.Name)) {
		case ".ovf":
			if firmware, err = ovfFirmware(io.LimitReader(in, maxDescriptor)); err != nil {
				return "", api.E("", api.Corrupt, "", fmt.Errorf("the appliance's descriptor is not valid: %w", err))
			}
		case ".vmdk":
			if disks++; disks > 1 {
				return "", api.E("", api.Unsupported, "", errors.New("the appliance has more than one disk: unpack it, and import its disks one by one"))
			}
			if err := s.spool(file, in); err != nil {
				return "", err
			}
		}
	}
}

// ovfFirmware finds the firmware in an OVF descriptor, which VMware writes as
// <vmw:Config vmw:key="firmware" vmw:value="efi"/>, and VirtualBox as
// <Firmware type="EFI"/>.
func ovfFirmware(r io.Reader) (api.Firmware, error) {
	d := xml.NewDecoder(r)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		attr := map[string]string{}
		for _, a := range element.Attr {
			attr[a.Name.Local] = strings.ToLower(a.Value)
		}
		isEFI := element.Name.Local == "Config" && attr["key"] == "firmware" && attr["value"] == "efi" ||
			element.Name.Local == "Firmware" && strings.HasPrefix(attr["type"], "efi")
		if isEFI {
			return api.FirmwareUEFI, nil
		}
	}
}
