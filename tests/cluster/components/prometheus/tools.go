//go:build tools

// Package tools names the program that this module exists to pin.
package tools

import _ "github.com/prometheus/prometheus/cmd/prometheus"
