package crashlab

import (
	"github.com/pinion-queue/pinion"
)

// Storage is a storage with every optional interface of package pinion. The storages of this module are such.
type Storage interface {
	pinion.Storage
	pinion.Canceler
	pinion.Inspector
	pinion.Limiter
}
