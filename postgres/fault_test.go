//go:build linux

package postgres

func child() {}
