package image

// kernelArtifact is the type of a kernel image: an OCI artifact.
const kernelArtifact = "application/vnd.berth.kernel.v1"
