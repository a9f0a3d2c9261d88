package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
)

// credentials finds a registry's credentials where the docker client keeps
// them: in the file config.json, or behind an external program that it names.
type credentials struct {
	dir string // of config.json; "" for the usual place
}

// dockerConfig is what concerns Berth in docker's config.json.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredsStore  string                `json:"credsStore"`
	CredHelpers map[string]string     `json:"credHelpers"`
}

type dockerAuth struct {
	Auth          string `json:"auth"` // base64 of user:secret
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
}

// hubKey is under what docker keeps the credentials of docker.io.
const hubKey = "https://index.docker.io/v1/"

// maxDockerConfig bounds config.json and a helper's reply, in bytes.
const maxDockerConfig = 1 << 20

// helperTime is how long a credential helper may take.
const helperTime = 30 * time.Second

// lookup returns the credentials for a registry's host; none is no error. An
// empty user with a secret is an identity token.
func (c *credentials) lookup(host string) (user, secret string, err error) {
	cfg, err := c.read()
	if err != nil || cfg == nil {
		return "", "", err
	}
	keys := []string{host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"}
	if host == hubHost {
		keys = []string{hubKey, "docker.io", "index.docker.io", hubHost}
	}
	for _, key := range keys {
		if helper := cfg.CredHelpers[key]; helper != "" {
			return askHelper(helper, key)
		}
	}
	if cfg.CredsStore != "" {
		user, secret, err := askHelper(cfg.CredsStore, keys[0])
		if err != nil || secret != "" {
			return user, secret, err
		}
	}
	for _, key := range keys {
		if a, ok := cfg.Auths[key]; ok {
			return a.decode(key)
		}
	}
	return "", "", nil
}

// read returns the configuration, nil if there is none.
func (c *credentials) read() (*dockerConfig, error) {
	dir := c.dir
	if dir == "" {
		dir = os.Getenv("DOCKER_CONFIG")
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil { // a daemon may have no $HOME
			u, err := user.Current()
			if err != nil {
				return nil, nil
			}
			home = u.HomeDir
		}
		dir = filepath.Join(home, ".docker")
	}
	path := filepath.Join(dir, "config.json")
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxDockerConfig {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	var cfg dockerConfig
	if err == nil {
		err = json.Unmarshal(b, &cfg)
	}
	if err != nil {
		return nil, api.E("", api.Invalid, path, fmt.Errorf("docker's configuration cannot be used: %w", err))
	}
	return &cfg, nil
}

func (a dockerAuth) decode(key string) (user, secret string, err error) {
	if a.IdentityToken != "" {
		return "", a.IdentityToken, nil
	}
	if a.Auth == "" {
		return a.Username, a.Password, nil
	}
	b, err := base64.StdEncoding.DecodeString(a.Auth)
	user, secret, ok := strings.Cut(string(b), ":")
	if err != nil || !ok {
		return "", "", api.E("", api.Invalid, key, errors.New("its credentials in docker's configuration are not valid; log in again with docker login"))
	}
	return user, strings.TrimRight(secret, "\x00"), nil
}

var helperName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)

// askHelper runs a credential helper, as docker-credential-helpers defines it.
func askHelper(helper, server string) (user, secret string, err error) {
	if !helperName.MatchString(helper) {
		return "", "", api.E("", api.Invalid, helper, errors.New("no name of a credential helper; see docker's configuration"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperTime)
	defer cancel()
	program := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	out := limitedBuffer{limit: maxDockerConfig}
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if bytes.Contains(out.b.Bytes(), []byte("credentials not found")) {
		return "", "", nil
	}
	if err != nil {
		return "", "", api.E("", api.Unavailable, program, fmt.Errorf("the credential helper fails: %w %s", err, api.OneLine(out.b.String())))
	}
	var reply struct{ Username, Secret string }
	if err := json.Unmarshal(out.b.Bytes(), &reply); err != nil {
		return "", "", api.E("", api.Corrupt, program, errors.New("the credential helper's answer is not valid"))
	}
	if reply.Username == "<token>" {
		reply.Username = ""
	}
	return reply.Username, reply.Secret, nil
}
