// Package archtest holds the repository to its own rules: which package may
// import which, how long a function may be, where unsafe may stand. It has
// only tests. What golangci-lint can check file by file stands in
// .golangci.yml; here is what needs the whole tree.
package archtest
