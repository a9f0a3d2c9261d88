package disk

import (
	"encoding/binary"
	"errors"
	"os"
)

// The layout that CreateQcow2 writes, in clusters: the header, the table of
// reference counts, its one block, the level 1 table.
const (
	qcow2Cluster = 64 << 10
	qcow2PerL1   = qcow2Cluster / 8 * qcow2Cluster // bytes of the disk for each entry of the level 1 table
	qcow2Counts  = 1
	qcow2Block   = 2
	qcow2L1      = 3
	qcow2Header  = 104
	qcow2Version = 3
	qcow2Order   = 4 // reference counts have 16 bits
	qcow2Magic   = "QFI\xfb"
	qcow2MaxSize = 1 << 50
)

// CreateQcow2 makes a qcow2 file at path that is the empty top layer of a disk of
// size bytes. The path must not exist; on an error nothing is left at it. The
// file names no backing file: whoever opens it says what lies below. Format:
// docs/interop/qcow2.txt of QEMU.
func CreateQcow2(path string, size int64) error {
	if size <= 0 || size > qcow2MaxSize {
		return errors.New("a qcow2 disk of no sane size")
	}
	entries := (size + qcow2PerL1 - 1) / qcow2PerL1
	l1Clusters := (entries*8 + qcow2Cluster - 1) / qcow2Cluster
	clusters := qcow2L1 + l1Clusters

	image := make([]byte, clusters*qcow2Cluster)
	be := binary.BigEndian
	copy(image, qcow2Magic)
	be.PutUint32(image[4:], qcow2Version)
	be.PutUint32(image[20:], 16) // cluster bits
	be.PutUint64(image[24:], uint64(size))
	be.PutUint32(image[36:], uint32(entries))
	be.PutUint64(image[40:], qcow2L1*qcow2Cluster)
	be.PutUint64(image[48:], qcow2Counts*qcow2Cluster)
	be.PutUint32(image[56:], 1) // clusters of that table
	be.PutUint32(image[96:], qcow2Order)
	be.PutUint32(image[100:], qcow2Header)
	be.PutUint64(image[qcow2Counts*qcow2Cluster:], qcow2Block*qcow2Cluster)
	for i := range clusters {
		be.PutUint16(image[qcow2Block*qcow2Cluster+2*i:], 1)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(image)
	if err = errors.Join(err, file.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// Qcow2Size returns how large the disk is, in bytes, by the header of a file that
// CreateQcow2 has made.
func Qcow2Size(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	head := make([]byte, 32)
	if _, err := file.ReadAt(head, 0); err != nil {
		return 0, err
	}
	size := binary.BigEndian.Uint64(head[24:])
	if string(head[:4]) != qcow2Magic || size > qcow2MaxSize {
		return 0, errors.New(path + " is no qcow2 file of a sane size")
	}
	return int64(size), nil
}
