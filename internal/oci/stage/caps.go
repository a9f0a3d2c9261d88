package stage

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/capability"
	"github.com/berthcloud/berth/internal/oci/program"
)

// becomeUser changes to the workload's ids and capabilities.
//
// The bounding set goes first, while CAP_SETPCAP is there; the permitted set survives
// the change of ids by PR_SET_KEEPCAPS; the ambient set comes last, since it is bounded by
// permitted and inheritable (capabilities(7)).
func (c *code) becomeUser() {
	p := c.proc
	c.dropBounding(capability.Mask(p.Caps.Bounding))
	c.prctl("prctl(PR_SET_KEEPCAPS)", unix.PR_SET_KEEPCAPS, 1, 0)
	c.setIDs()
	c.prctl("prctl(PR_SET_KEEPCAPS)", unix.PR_SET_KEEPCAPS, 0, 0)
	permitted, inheritable := capability.Mask(p.Caps.Permitted), capability.Mask(p.Caps.Inheritable)
	c.capset(capability.Mask(p.Caps.Effective), permitted, inheritable)
	c.setAmbient(capability.Mask(p.Caps.Ambient) & permitted & inheritable)
}

func (c *code) prctl(text string, option, arg, arg2 uint64) program.Call {
	return c.Call(text, unix.SYS_PRCTL, program.N(option), program.N(arg), program.N(arg2), program.N(0), program.N(0))
}

func (c *code) setIDs() {
	p := c.proc
	if p.SetGroups {
		var list []byte
		for _, g := range p.Groups {
			list = binary.NativeEndian.AppendUint32(list, g)
		}
		c.Call("process.user.additionalGids", unix.SYS_SETGROUPS, program.N(len(p.Groups)), c.Bytes(list).Arg())
	}
	gid, uid := program.N(p.GID), program.N(p.UID)
	c.Call(fmt.Sprintf("process.user.gid: %d", p.GID), unix.SYS_SETRESGID, gid, gid, gid)
	c.Call(fmt.Sprintf("process.user.uid: %d", p.UID), unix.SYS_SETRESUID, uid, uid, uid)
}

// dropBounding removes from the bounding set all that is not to be kept.
func (c *code) dropBounding(keep uint64) {
	beyond := c.NewLabel() // the last capability of this kernel
	for n := uint64(0); n <= capability.Max; n++ {
		if keep&(1<<n) == 0 {
			c.prctl("process.capabilities.bounding: prctl(PR_CAPBSET_DROP)", unix.PR_CAPBSET_DROP, n, 0).Catch(unix.EINVAL, beyond)
		}
	}
	c.Here(beyond)
}

func (c *code) capset(effective, permitted, inheritable uint64) {
	header := binary.NativeEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3)
	header = binary.NativeEndian.AppendUint32(header, 0)
	var data []byte // two struct __user_cap_data_struct
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range [...]uint64{effective & permitted, permitted, inheritable} {
			data = binary.NativeEndian.AppendUint32(data, uint32(set>>shift))
		}
	}
	c.Call("process.capabilities: capset", unix.SYS_CAPSET, c.Bytes(header).Arg(), c.Bytes(data).Arg())
}

func (c *code) setAmbient(set uint64) {
	c.prctl("prctl(PR_CAP_AMBIENT)", unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	for n := uint64(0); n <= capability.Max; n++ {
		if set&(1<<n) != 0 {
			c.prctl("process.capabilities.ambient: "+capability.Name(int(n)), unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n)
		}
	}
}
