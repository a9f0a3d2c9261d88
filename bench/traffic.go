package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// network compares TCP between the container and the host's end of its bridge with
// TCP over a bare veth pair, in both directions.
func (in *inside) network(ctx context.Context) (rows []row, err error) {
	here := comparison{name: "inside: network, out", unit: "Gbit/s", runs: max(5, in.runs/5), warmUp: 1}
	back := comparison{name: "inside: network, in", unit: "Gbit/s", runs: here.runs, warmUp: 1}
	if why := installed("iperf3"); why != "" {
		for _, c := range []*comparison{&here, &back} {
			c.contenders = []contender{{name: "berth", missing: why}, {name: "veth pair", missing: why}}
		}
		return measureBoth(ctx, here, back)
	}
	near, far := in.daemon.netns+"n", in.daemon.netns+"f"
	defer func() { err = errors.Join(err, removeNetns(near), removeNetns(far)) }()
	const peer = "10.255.255.1"
	if err := vethPair(ctx, near, far, peer); err != nil {
		return nil, err
	}
	gateway, inner, err := in.gateway(ctx)
	if err != nil {
		return nil, err
	}
	defer inner()
	outer, err := listen(ctx, far, peer)
	if err != nil {
		return nil, err
	}
	defer outer()
	for _, c := range []*comparison{&here, &back} {
		flags := []string{"-J", "-n", "512M"}
		if c == &back {
			flags = append(flags, "-R")
		}
		c.contenders = []contender{
			traffic("berth", slices.Concat(in.daemon.cli, []string{"exec", insideName, "/bin/iperf3", "-c", gateway}, flags)),
			traffic("veth pair", append([]string{"nsenter", "--net=/run/netns/" + near, "iperf3", "-c", peer}, flags...)),
		}
	}
	return measureBoth(ctx, here, back)
}

// gateway starts an iperf3 server on the host's end of the bridge, and returns its
// address. What it returns beside that ends it.
func (in *inside) gateway(ctx context.Context) (address string, end func(), err error) {
	address, err = output(ctx, "sh", "-c", "ip -n "+in.daemon.netns+" -o -4 addr show scope global | sed 's/.* inet \\([0-9.]*\\).*/\\1/'")
	if err != nil {
		return "", nil, err
	}
	end, err = listen(ctx, in.daemon.netns, address)
	return address, end, err
}

// traffic runs an iperf3 client and reads how much arrived.
func traffic(name string, argv []string) contender {
	return contender{name: name, run: func(ctx context.Context) (float64, error) {
		out, err := output(ctx, argv...)
		if err != nil {
			return 0, err
		}
		var report struct {
			End struct {
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		err = json.Unmarshal([]byte(out), &report)
		return report.End.Received.Rate / 1e9, err
	}}
}

// vethPair connects two new network namespaces.
func vethPair(ctx context.Context, near, far, address string) error {
	for _, line := range []string{
		"netns add " + near, "netns add " + far,
		"link add e0 netns " + near + " type veth peer name e0 netns " + far,
		"-n " + near + " addr add 10.255.255.2/30 dev e0", "-n " + far + " addr add " + address + "/30 dev e0",
		"-n " + near + " link set e0 up", "-n " + far + " link set e0 up",
	} {
		if err := quiet(ctx, append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
			return err
		}
	}
	return nil
}

func removeNetns(name string) error {
	return quiet(context.Background(), "sh", "-c", fmt.Sprintf("[ ! -e /run/netns/%[1]s ] || ip netns del %[1]s", name))
}

// listen starts an iperf3 server and waits until it is there. What it returns ends it.
func listen(ctx context.Context, netns, address string) (end func(), err error) {
	cmd := exec.Command("nsenter", "--net=/run/netns/"+netns, "iperf3", "-s", "-B", address)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for range 100 {
		out, err := output(ctx, "ip", "netns", "exec", netns, "ss", "-Hltn", "src", address+":5201")
		if err == nil && out != "" {
			return end, nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			break
		}
	}
	end()
	return nil, fmt.Errorf("iperf3 does not listen on %s", address)
}
