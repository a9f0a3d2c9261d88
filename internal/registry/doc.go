// Package registry is a front end: the OCI distribution protocol (distribution-spec 1.1),
// straight on Berth's store of images. It translates requests, and knows who may send
// them; what a repository is, package image says.
//
//	docker push ──HTTP──▶ observe ─▶ route ─▶ identify ─▶ permit ─▶ handler ─▶ image.Repositories
//	                                            │            │
//	                                          users        rights
//
// The image NAME/team/app:1 of this host is team/app:1 in its registry, where NAME is
// the registry's own, localhost if not configured. Images of other registries, as they
// were pulled here, are there for whoever asks as of a mirror does, with the query
// ns=HOST, and has the right to.
//
// A client that sends no byte, or hardly one, is cut off; so is one that takes none.
package registry
