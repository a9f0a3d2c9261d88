package engine

import (
	"errors"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Every instance has user ids of the host to itself: a container's user
// namespace maps its 65536 ids to them, and a VM's QEMU runs as the first. The
// ranges lie above those that systemd-nspawn (0x00080000 to 0x6fffffff) and
// the usual /etc/subuid entries use, and below 2^31, which some filesystems
// and tools take for negative.
const (
	rangeBase  = 0x7000_0000
	rangeSize  = 1 << 16
	rangeCount = 0x0fff
)

// TemplateUser is who the machine runs as that becomes a template of others: no
// instance, which might tamper with it.
func TemplateUser(host instance.Host) uint32 {
	if host.Rootless() {
		return host.MachineUser().First
	}
	return rangeBase + rangeCount*rangeSize
}

func rangeIndex(r instance.IDRange) uint32 { return (r.First - rangeBase) / rangeSize }

// allocateRange reserves a free range. The caller gives it back by freeRange
// or by forgetting the entry that owns it. The instances of an ordinary user's
// daemon share the ids that it has.
func (e *Engine) allocateRange(kind api.Kind) (instance.IDRange, error) {
	if e.host.Rootless() && kind == api.VM {
		return e.host.MachineUser(), nil
	}
	if e.host.Rootless() {
		return e.host.SharedUsers(), nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range uint32(rangeCount) {
		if !e.ranges[i] {
			e.ranges[i] = true
			return instance.IDRange{First: rangeBase + i*rangeSize, Size: rangeSize}, nil
		}
	}
	return instance.IDRange{}, api.E("create", api.Exhausted, "user ids", errors.New("all 4095 ranges are taken; remove instances that are no longer needed"))
}

func (e *Engine) freeRange(r instance.IDRange) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.ranges, rangeIndex(r))
}

// ReserveUsers reserves the user ids of a step of a build, which is a container or VM
// without a record, until ReleaseUsers.
func (e *Engine) ReserveUsers(kind api.Kind) (instance.IDRange, error) { return e.allocateRange(kind) }

// ReleaseUsers gives back what ReserveUsers returned.
func (e *Engine) ReleaseUsers(r instance.IDRange) {
	if !e.host.Rootless() {
		e.freeRange(r)
	}
}
