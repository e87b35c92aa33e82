# Included by the Makefile: the guest artefact and what building it needs.

# libelf-dev and libssl-dev are headers of the kernel's own build tools;
# e2fsprogs makes the ext4 template.
GUEST_DEBS := linux-source-6.12 make gcc libc6-dev binutils flex bison bc libelf-dev libssl-dev patch xz-utils e2fsprogs

.PHONY: guest
guest: ## build kernel, initramfs and disk template, or find them in the cache
	$(GO) run ./guest/kernel/build
