package verify

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/berthcloud/berth/internal/image/trust"
)

// Annotations of simple signatures.
const (
	signatureAnnotation   = "dev.cosignproject.cosign/signature"
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	chainAnnotation       = "dev.sigstore.cosign/chain"
	logAnnotation         = "dev.sigstore.cosign/bundle"
)

// one is a signature.
type one trust.Signature

// verify returns nil if the signature is a verifier's, and of the image.
func (s *one) verify(v *verifier, q *trust.Request) error {
	if s.MediaType == trust.SimpleSigning {
		return s.verifySimple(v, q)
	}
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(s.Blob); err != nil {
		return err
	}
	if b.GetDsseEnvelope() == nil {
		return errors.New("it signs no statement")
	}
	return v.verifyStatement(b, q.Digest.Algorithm().String(), q.Digest.Encoded())
}

// payload is what a simple signature signs (containers-signature(5)).
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
}

// payloadType is what cosign and podman call it.
const payloadType = "cosign container image signature"

func (s *one) verifySimple(v *verifier, q *trust.Request) error {
	b, err := s.bundle()
	if err != nil {
		return err
	}
	if err := v.verifyArtifact(b, s.Blob); err != nil {
		return err
	}
	// Only what is signed is looked into.
	var p payload
	if err := json.Unmarshal(s.Blob, &p); err != nil {
		return fmt.Errorf("what it signs is no JSON: %w", err)
	}
	switch {
	case p.Critical.Type != payloadType:
		return fmt.Errorf("it signs a %.100q", p.Critical.Type)
	case p.Critical.Image.Digest != q.Digest:
		return fmt.Errorf("it is of %.100s, another image", p.Critical.Image.Digest)
	}
	return agrees(p.Critical.Identity.Reference, q)
}

// bundle writes a simple signature as a bundle, so that all are verified by one code.
func (s *one) bundle() (*bundle.Bundle, error) {
	signature, err := base64.StdEncoding.DecodeString(s.Annotations[signatureAnnotation])
	if err != nil || len(signature) == 0 {
		return nil, errors.New("it has no signature")
	}
	sum := sha256.Sum256(s.Blob)
	material := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}}}
	if text := s.Annotations[certificateAnnotation]; text != "" {
		chain := &protocommon.X509CertificateChain{}
		for rest := []byte(text + "\n" + s.Annotations[chainAnnotation]); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			chain.Certificates = append(chain.Certificates, &protocommon.X509Certificate{RawBytes: block.Bytes})
		}
		material.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: chain}
	}
	if text := s.Annotations[logAnnotation]; text != "" {
		entry, err := logEntry([]byte(text))
		if err != nil {
			return nil, err
		}
		material.TlogEntries = append(material.TlogEntries, entry)
	}
	return bundle.NewBundle(&protobundle.Bundle{
		MediaType:            trust.Bundle + "+json;version=0.1",
		VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     signature,
		}},
	})
}

// logEntry reads the entry of a log as cosign annotates it: the log has promised to
// include it.
func logEntry(text []byte) (*protorekor.TransparencyLogEntry, error) {
	var doc struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body  []byte `json:"body"`
			Time  int64  `json:"integratedTime"`
			Index int64  `json:"logIndex"`
			LogID string `json:"logID"`
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("its entry of a log is not readable: %w", err)
	}
	var kind struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(doc.Payload.Body, &kind); err != nil {
		return nil, fmt.Errorf("its entry of a log is not readable: %w", err)
	}
	id, err := decodeHex(doc.Payload.LogID)
	if err != nil {
		return nil, err
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex: doc.Payload.Index, LogId: &protocommon.LogId{KeyId: id}, IntegratedTime: doc.Payload.Time,
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.Version},
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: doc.SignedEntryTimestamp},
		CanonicalizedBody: doc.Payload.Body,
	}, nil
}
