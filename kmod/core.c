// SPDX-License-Identifier: GPL-2.0
/*
 * dmirror: a test driver for HMM (Heterogeneous Memory Management).
 *
 * Loading, unloading, parameters and the table of devices. Layers, each using
 * only those before it: uapi, core, context, notifier and device page table,
 * walks, faults and access, snapshot, device memory, migration, exclusive
 * access; beside them what a test sees and steers (steer.h, used by all of them)
 * and watches; compat/ holds every difference between kernels.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/module.h>

#include "context.h"

module_param_named(filter, dmirror_filter, bool, 0644);
MODULE_PARM_DESC(filter, "Filter MIGRATE and EXCLUSIVE events of the context's own making (default on)");
module_param_named(devmem_mib, dmirror_devmem_mib, uint, 0444);
MODULE_PARM_DESC(devmem_mib, "MiB of memory that each device may grow to, a multiple of 256 (default 1024)");

/* As in the kernel's own driver: both or none. */
static unsigned long dmirror_spm_addr[2];
module_param_named(spm_addr_dev0, dmirror_spm_addr[0], ulong, 0444);
MODULE_PARM_DESC(spm_addr_dev0, "Physical address of 256 MiB set aside for the coherent device 2");
module_param_named(spm_addr_dev1, dmirror_spm_addr[1], ulong, 0444);
MODULE_PARM_DESC(spm_addr_dev1, "Physical address of 256 MiB set aside for the coherent device 3");

static struct dmirror_device dmirror_devices[DMIRROR_NR_DEVICES];
static unsigned int dmirror_nr_devices;
static dev_t dmirror_devt;
static struct dentry *dmirror_debugfs;

/* The devices are static and outlive their last reference. */
static void dmirror_device_release(struct device *device)
{
}

static void dmirror_device_discard(struct dmirror_device *dev)
{
	dmirror_devmem_exit(dev);
	put_device(&dev->device);
}

static int __init dmirror_device_prepare(struct dmirror_device *dev,
					 unsigned int id)
{
	int ret;

	dev->id = id;
	if (id >= 2)
		dev->coherent = dmirror_spm_addr[id - 2];
	dev->neighbour = &dmirror_devices[id ^ 1];
	mutex_init(&dev->open_mutex);
	spin_lock_init(&dev->steer_lock);
	INIT_LIST_HEAD(&dev->open);
	dmirror_devmem_init(dev);
	cdev_init(&dev->cdev, &dmirror_fops);
	dev->cdev.owner = THIS_MODULE;
	device_initialize(&dev->device);
	dev->device.release = dmirror_device_release;
	dev->device.devt = MKDEV(MAJOR(dmirror_devt), id);
	ret = dev_set_name(&dev->device, "hmm_dmirror%u", id);
	if (!ret)
		ret = dmirror_devmem_grow(dev);
	if (ret)
		dmirror_device_discard(dev);
	return ret;
}

/* What a parameter says by itself; what is there is asked by chunk.c. */
static int __init dmirror_check_parameters(void)
{
	unsigned long align = max(PMD_SIZE, memremap_compat_align());
	unsigned int chunk_mib = DMIRROR_CHUNK_BYTES >> 20;
	unsigned long *addr = dmirror_spm_addr;
	unsigned int i;

	if (!dmirror_devmem_mib || dmirror_devmem_mib % chunk_mib ||
	    dmirror_devmem_mib / chunk_mib > DMIRROR_MAX_CHUNKS) {
		pr_err("dmirror: devmem_mib=%u is not a multiple of %u from %u to %u\n",
		       dmirror_devmem_mib, chunk_mib, chunk_mib,
		       chunk_mib * DMIRROR_MAX_CHUNKS);
		return -EINVAL;
	}
	if (!addr[0] != !addr[1]) {
		pr_err("dmirror: spm_addr_dev0 and spm_addr_dev1 are given together or not at all\n");
		return -EINVAL;
	}
	for (i = 0; i < 2; i++) {
		if (!IS_ALIGNED(addr[i], align) ||
		    addr[i] > ULONG_MAX - DMIRROR_CHUNK_BYTES) {
			pr_err("dmirror: spm_addr_dev%u=%#lx is not a multiple of %#lx with %u MiB above it\n",
			       i, addr[i], align, chunk_mib);
			return -EINVAL;
		}
	}
	if (addr[0] && max(addr[0], addr[1]) - min(addr[0], addr[1]) <
	    DMIRROR_CHUNK_BYTES) {
		pr_err("dmirror: spm_addr_dev0=%#lx and spm_addr_dev1=%#lx are less than %u MiB apart\n",
		       addr[0], addr[1], chunk_mib);
		return -EINVAL;
	}
	return 0;
}

static int __init dmirror_init(void)
{
	unsigned int id, added = 0;
	int ret;

	ret = dmirror_check_parameters();
	if (ret)
		return ret;
	dmirror_nr_devices = dmirror_spm_addr[0] ? 4 : 2;
	ret = dmirror_pt_cache_init();
	if (ret)
		return ret;
	ret = alloc_chrdev_region(&dmirror_devt, 0, DMIRROR_NR_DEVICES,
				  "hmm_dmirror");
	if (ret)
		goto err_cache;
	for (id = 0; id < dmirror_nr_devices; id++) {
		ret = dmirror_device_prepare(&dmirror_devices[id], id);
		if (ret)
			goto err_devices;
	}
	/* Last what anybody can open: little is left that could fail then. */
	for (; added < dmirror_nr_devices; added++) {
		ret = cdev_device_add(&dmirror_devices[added].cdev,
				      &dmirror_devices[added].device);
		if (ret)
			goto err_devices;
	}
	dmirror_debugfs = debugfs_create_dir("dmirror", NULL);
	for (id = 0; id < dmirror_nr_devices; id++)
		dmirror_debugfs_add(&dmirror_devices[id], dmirror_debugfs);
	pr_info("dmirror: loaded: hmm_dmirror0-1 device-private, up to %u MiB each, huge folios %s%s, filter %s\n",
		dmirror_devmem_mib, MIGRATE_PFN_COMPOUND ? "yes" : "no",
		dmirror_spm_addr[0] ?
			"; hmm_dmirror2-3 device-coherent, 256 MiB each" : "",
		dmirror_filter ? "on" : "off");
	return 0;

err_devices:
	while (added--)
		cdev_device_del(&dmirror_devices[added].cdev,
				&dmirror_devices[added].device);
	while (id--)
		dmirror_device_discard(&dmirror_devices[id]);
	unregister_chrdev_region(dmirror_devt, DMIRROR_NR_DEVICES);
err_cache:
	dmirror_pt_cache_exit();
	return ret;
}

static void __exit dmirror_exit(void)
{
	unsigned int id;

	debugfs_remove(dmirror_debugfs);
	for (id = 0; id < dmirror_nr_devices; id++) {
		cdev_device_del(&dmirror_devices[id].cdev,
				&dmirror_devices[id].device);
		dmirror_device_discard(&dmirror_devices[id]);
	}
	unregister_chrdev_region(dmirror_devt, DMIRROR_NR_DEVICES);
	dmirror_pt_cache_exit();
}

module_init(dmirror_init);
module_exit(dmirror_exit);
MODULE_DESCRIPTION("Test driver for HMM (Heterogeneous Memory Management)");
MODULE_LICENSE("GPL");
