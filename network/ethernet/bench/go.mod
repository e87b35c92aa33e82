module github.com/stackvm/stack/network/ethernet/bench

go 1.26.0

require (
	github.com/containers/gvisor-tap-vsock v0.8.9
	github.com/sirupsen/logrus v1.10.1
	github.com/stackvm/stack v0.0.0
	gvisor.dev/gvisor v0.0.0-20260224225140-573d5e7127a8
)

require (
	github.com/apparentlymart/go-cidr v1.1.1 // indirect
	github.com/google/btree v1.1.2 // indirect
	github.com/google/gopacket v1.1.19 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.12.0 // indirect
)

replace (

	github.com/stackvm/stack => ../../..
	// The version that gvisor-tap-vsock pins: it does not compile with ours,
	// which the switch itself does not use.
	gvisor.dev/gvisor => gvisor.dev/gvisor v0.0.0-20240916094835-a174eb65023f
)
