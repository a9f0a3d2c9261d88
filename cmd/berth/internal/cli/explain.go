package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/show"
)

func newExplainCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "explain [OPTIONS] INSTANCE",
		Short: "Say how a VM is virtualized, why, and what else there is",
		Long: exits(`Say how a virtual machine is virtualized and why: its processor, machine, disks,
network card and firmware; and of each other class what it would give, or what it
would need. The VM may run or not; one that was only created tells what its start
would decide.`),
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExplain(cmd.Context(), g, format, args[0])
		},
		ValidArgsFunction: completeInstances(g, nil),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go template")
	return cmd
}

func runExplain(ctx context.Context, g *global, format, ref string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	e, err := c.Explain(ctx, ref)
	if err != nil {
		return err
	}
	return show.One(g.Out, format, e, func(w io.Writer) error { return printExplanation(w, e) })
}

// printExplanation writes the machine as a list of names and values, and the
// classes below it.
func printExplanation(w io.Writer, e api.Explanation) error {
	m := e.Machine
	p := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name+":", api.OneLine(fmt.Sprintf(format, values...)))
	}
	p("Instance", "%s (%s)", e.Name, e.State)
	p("Class", "%s", m.Virtualization)
	p("Why", "%s", m.Reason)
	p("Processor", "%s, %s, by %s", m.Arch, m.CPUModel, map[string]string{"kvm": "KVM", "tcg": "emulation"}[m.Accelerator])
	p("Machine", "%s, firmware %s", m.Type, m.Firmware)
	p("Disks", "%s", m.DiskBus)
	p("Network", "%s", m.NICModel)
	if m.Graphics {
		p("Display", "%s", "berth vga "+e.Name)
	}
	if m.OnCrash != "" {
		p("On crash", "%s%s", m.OnCrash, map[bool]string{true: ", with a watchdog"}[m.Watchdog])
	}
	if m.TPM {
		p("TPM", "2.0")
	}
	p("Kernel", "%s", e.Kernel)
	p("Start", "%s", m.Start)
	p("Classes", "")
	for _, c := range e.Classes {
		verdict := "possible"
		switch {
		case c.Chosen:
			verdict = "chosen"
		case !c.Possible:
			verdict = "needs"
		}
		fmt.Fprintf(w, "  %-9s %-9s %s\n", c.Virtualization, verdict, api.OneLine(c.Reason))
	}
	return nil
}
