package bundle

import (
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci/fastjson"
)

//go:generate ../../../scripts/easyjson $GOFILE

// document is the part of specs.Spec that concerns Linux, and whether there is more.
//
//easyjson:json
type document struct {
	Version     string            `json:"ociVersion"`
	Process     *specs.Process    `json:"process"`
	Root        *specs.Root       `json:"root"`
	Hostname    string            `json:"hostname"`
	Domainname  string            `json:"domainname"`
	Mounts      []specs.Mount     `json:"mounts"`
	Hooks       *specs.Hooks      `json:"hooks"`
	Annotations map[string]string `json:"annotations"`
	Linux       *specs.Linux      `json:"linux"`

	Windows json.RawMessage `json:"windows"`
	Solaris json.RawMessage `json:"solaris"`
	ZOS     json.RawMessage `json:"zos"`
	FreeBSD json.RawMessage `json:"freebsd"`
}

func (d *document) foreign() bool {
	return d.Windows != nil || d.Solaris != nil || d.ZOS != nil || d.FreeBSD != nil
}

//easyjson:json
type process specs.Process

// decodeSpec decodes a config.json. What the generated decoder refuses or does not
// know is decoded again by encoding/json, which names the field.
func decodeSpec(raw []byte) (*specs.Spec, error) {
	var d document
	if fastjson.Unmarshal(raw, &d) == nil && !d.foreign() {
		return &specs.Spec{
			Version: d.Version, Process: d.Process, Root: d.Root, Hostname: d.Hostname, Domainname: d.Domainname,
			Mounts: d.Mounts, Hooks: d.Hooks, Annotations: d.Annotations, Linux: d.Linux,
		}, nil
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(raw, spec); err != nil {
		return nil, decodeError(err)
	}
	return spec, nil
}

// decodeProcess decodes a process.json, likewise.
func decodeProcess(raw []byte) (*specs.Process, error) {
	p := &process{}
	if fastjson.Unmarshal(raw, p) == nil {
		return (*specs.Process)(p), nil
	}
	std := &specs.Process{}
	if err := json.Unmarshal(raw, std); err != nil {
		return nil, decodeError(err)
	}
	return std, nil
}
