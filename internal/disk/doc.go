// Package disk writes and reads the small on-disk formats a virtual machine is
// made of: a kernel taken out of its bzImage, an initramfs, a partition table,
// a VMDK descriptor that joins layer images into one disk, a blank ext4.
//
// It is a mechanism: it knows files and bytes, not images or instances. Every
// reader of bytes that come from elsewhere bounds what it allocates and has a
// fuzzer. All functions are safe for concurrent use on different files.
package disk
