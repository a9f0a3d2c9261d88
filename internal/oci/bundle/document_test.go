package bundle

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// corpus are documents that both decoders are tried on, beside the fuzzer's.
func corpus(t testing.TB) []string {
	t.Helper()
	file, err := os.ReadFile("../../instance/container/testdata/default.golden")
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		minimal, string(file), `{}`, `null`, `[]`, `{"linux":null,"process":{"user":{"umask":18}}}`,
		`{"linux":{"resources":{"memory":{"limit":-1},"unified":{"a":"b"}},"seccomp":{"defaultErrnoRet":38}}}`,
		`{"windows":{"layerFolders":["x"]}}`, `{"hostname":"\ud800\u0000<"}`, `{"Hostname":"x","hostname":"y","hostname":"z"}`,
	}
}

// TestDecodersAgree compares the generated decoder with that of the standard library.
func TestDecodersAgree(t *testing.T) {
	for _, text := range corpus(t) {
		compareDecoders(t, []byte(text))
	}
}

func FuzzDecodersAgree(f *testing.F) {
	for _, text := range corpus(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { compareDecoders(t, raw) })
}

// compareDecoders fails where the generated decoder refuses what encoding/json
// accepts, or reads something else in its normal form. Only there: encoding/json
// also takes names in another case than config.md writes them.
func compareDecoders(t *testing.T, raw []byte) {
	t.Helper()
	_, err := decodeSpec(raw)
	var spec specs.Spec
	if json.Unmarshal(raw, &spec) != nil {
		return
	}
	if err != nil {
		t.Fatalf("%q: %v; encoding/json accepts it", raw, err)
	}
	spec.VM = nil // a platform that decodeSpec leaves out
	normal, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeSpec(normal)
	if err != nil {
		t.Fatalf("%s: %v", normal, err)
	}
	again, err := json.Marshal(got)
	if err != nil || string(again) != string(normal) {
		t.Errorf("decoded as\n%s, %v\nencoding/json has\n%s", again, err, normal)
	}
}
