package vm

import (
	"errors"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Explain says what would be decided for a machine, and what each other class
// would give or need. But for the templates that there are, it is a pure function.
func (d *Driver) Explain(p *instance.Prepared, host instance.Host) (api.Explanation, error) {
	plan, err := newPlan(p, host, d.cfg.Cache)
	if err != nil {
		return api.Explanation{}, err
	}
	plan.Machine.Start = d.startOf(plan)
	e := api.Explanation{Name: p.Spec.Name, Kernel: p.Kernel.Name, Machine: plan.Machine}
	for _, v := range []api.Virtualization{api.VirtHardware, api.VirtPara, api.VirtFull} {
		e.Classes = append(e.Classes, explainClass(*p, host, d.cfg.Cache, v, v == plan.Machine.Virtualization))
	}
	return e, nil
}

// gives says what each class is.
var gives = map[api.Virtualization]string{
	api.VirtHardware: "the host's processor runs the guest (KVM); its devices are virtio",
	api.VirtPara:     "the processor is emulated; the devices are virtio, which the guest must know",
	api.VirtFull:     "processor and devices are emulated: for guests that know no virtio",
}

// explainClass plans the machine in another class.
func explainClass(p instance.Prepared, host instance.Host, cache string, v api.Virtualization, chosen bool) api.Class {
	class := api.Class{Virtualization: v, Chosen: chosen, Possible: true, Reason: gives[v]}
	if chosen {
		return class
	}
	p.Spec.VM.Virtualization = v
	if obstacle := hardwareObstacle(archOf(&p, host), host); v == api.VirtHardware && obstacle != "" {
		class.Possible, class.Reason = false, obstacle
	} else if _, err := newPlan(&p, host, cache); err != nil {
		class.Possible, class.Reason = false, reasonOf(err)
	}
	return class
}

// reasonOf is an error without the name of what it is about.
func reasonOf(err error) string {
	for {
		e, wrapped := errors.AsType[*api.Error](err)
		if !wrapped {
			return api.OneLine(err.Error())
		}
		err = e.Err
	}
}
