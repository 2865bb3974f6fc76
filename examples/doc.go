// Package examples shows Pinion beside other modules, which the library itself does not require.
package examples
