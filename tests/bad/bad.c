// SPDX-License-Identifier: GPL-2.0
/*
 * dmirror_bad: a module that misbehaves on command.
 *
 * For tests of what the harness makes of a kernel's complaints. A word written
 * to /sys/kernel/debug/dmirror_bad/do does it once, by the writer itself unless
 * said otherwise; some words take seconds. What a kernel says depends on its
 * config: above each function stands what notices.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/percpu_counter.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

/* In the hole between the map of pages and KASAN's shadow, Documentation/arch/x86/x86_64/mm.rst. */
#define BAD_WILD ((unsigned long *)0xffffeb00deadb000UL)
#define BAD_NON_CANONICAL ((unsigned long *)0xdeadbeefdead0000UL)
#define BAD_SIZE 64
#define BAD_LEAKS 4
#define BAD_LEAK (4 * PAGE_SIZE)
#define BAD_PAGES 7
#define BAD_LINES 300
#define BAD_LINE 960
#define BAD_DEFAULT_S 30

static struct dentry *bad_debugfs;

static DEFINE_MUTEX(bad_one);
static DEFINE_MUTEX(bad_two);
static DEFINE_MUTEX(bad_kept);
static DEFINE_MUTEX(bad_free);
static DEFINE_SPINLOCK(bad_spin);
static struct mutex bad_alike[2];
static unsigned long __rcu *bad_guarded;
static struct percpu_ref bad_ref;
static unsigned long bad_shared;

/* Hidden from the compiler, which would warn of it, or leave it out. */
static noinline void bad_load(unsigned long *from)
{
	OPTIMIZER_HIDE_VAR(from);
	READ_ONCE(*from);
}

static void bad_warn(unsigned int seconds)
{
	WARN(1, "dmirror_bad: asked to warn\n");
}

static void bad_bug(unsigned int seconds)
{
	BUG();
}

static void bad_null(unsigned int seconds)
{
	bad_load(NULL);
}

static void bad_paging(unsigned int seconds)
{
	bad_load(BAD_WILD);
}

static void bad_gpf(unsigned int seconds)
{
	bad_load(BAD_NON_CANONICAL);
}

/* Always there: REFCOUNT_FULL is no option any more. */
static void bad_refcount(unsigned int seconds)
{
	refcount_t count = REFCOUNT_INIT(0);

	if (refcount_dec_and_test(&count))
		pr_warn("dmirror_bad: nobody counts\n");
}

static void bad_percpu_released(struct percpu_ref *ref)
{
}

/* Said by an RCU callback, some time later. */
static void bad_percpu(unsigned int seconds)
{
	if (percpu_ref_init(&bad_ref, bad_percpu_released, 0, GFP_KERNEL))
		return;
	percpu_ref_put_many(&bad_ref, 3);
	percpu_ref_kill(&bad_ref);
}

/* DEBUG_LIST */
static void bad_list(unsigned int seconds)
{
	LIST_HEAD(list);
	struct list_head item;

	list_add(&item, &list);
	list_del(&item);
	list_del(&item);
}

/* KASAN */
static void bad_uaf(unsigned int seconds)
{
	unsigned long *memory = kmalloc(BAD_SIZE, GFP_KERNEL);

	if (!memory)
		return;
	kfree(memory);
	bad_load(memory);
}

/* KASAN */
static void bad_oob(unsigned int seconds)
{
	unsigned long *memory = kmalloc(BAD_SIZE, GFP_KERNEL);

	if (!memory)
		return;
	bad_load(memory + BAD_SIZE / sizeof(*memory));
	kfree(memory);
}

/* SLUB_DEBUG, for which this cache asks; KASAN sees it first. */
static void bad_redzone(unsigned int seconds)
{
	struct kmem_cache *cache;
	u8 *memory;

	cache = kmem_cache_create("dmirror_bad", BAD_SIZE, 0,
				  SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE, NULL);
	if (!cache)
		return;
	memory = kmem_cache_alloc(cache, GFP_KERNEL);
	if (memory) {
		WRITE_ONCE(memory[BAD_SIZE], 1);
		kmem_cache_free(cache, memory);
	}
	kmem_cache_destroy(cache);
}

/*
 * DEBUG_KMEMLEAK, at the second scan after five seconds. Whole pages: the
 * address of a small object may remain in the sheaf it came from (v6.18).
 */
static void bad_leak(unsigned int seconds)
{
	void *memory;
	int i;

	for (i = 0; i < BAD_LEAKS; i++) {
		memory = kmalloc(BAD_LEAK, GFP_KERNEL);
		OPTIMIZER_HIDE_VAR(memory);
	}
}

/* PROVE_LOCKING, once */
static void bad_locks(unsigned int seconds)
{
	mutex_lock(&bad_one);
	mutex_lock(&bad_two);
	mutex_unlock(&bad_two);
	mutex_unlock(&bad_one);

	mutex_lock(&bad_two);
	mutex_lock(&bad_one);
	mutex_unlock(&bad_one);
	mutex_unlock(&bad_two);
}

/* PROVE_LOCKING, once */
static void bad_recursive(unsigned int seconds)
{
	mutex_lock(&bad_alike[0]);
	mutex_lock(&bad_alike[1]);
	mutex_unlock(&bad_alike[1]);
	mutex_unlock(&bad_alike[0]);
}

/* PROVE_LOCKING, once */
static void bad_unlock(unsigned int seconds)
{
	mutex_unlock(&bad_free);
}

/* DEBUG_ATOMIC_SLEEP */
static void bad_sleep(unsigned int seconds)
{
	spin_lock(&bad_spin);
	might_sleep();
	spin_unlock(&bad_spin);
}

/* PROVE_RCU, once */
static void bad_rcu(unsigned int seconds)
{
	rcu_dereference(bad_guarded);
}

/* PROVE_LOCKING, once */
static void bad_held(unsigned int seconds)
{
	mutex_trylock(&bad_kept);
}

static void bad_spin_for(unsigned int seconds)
{
	unsigned int i;

	for (i = 0; i < seconds * 1000; i++)
		mdelay(1);
}

/* SOFTLOCKUP_DETECTOR: twice kernel.watchdog_thresh seconds */
static void bad_softlockup(unsigned int seconds)
{
	preempt_disable();
	bad_spin_for(seconds);
	preempt_enable();
}

/* DETECT_HUNG_TASK: kernel.hung_task_timeout_secs */
static void bad_hung(unsigned int seconds)
{
	schedule_timeout_uninterruptible(seconds * HZ);
}

/* rcupdate.rcu_cpu_stall_timeout seconds */
static void bad_rcustall(unsigned int seconds)
{
	rcu_read_lock();
	bad_spin_for(seconds);
	rcu_read_unlock();
}

/* DEBUG_VM */
static void bad_badpage(unsigned int seconds)
{
	struct page *page = alloc_page(GFP_KERNEL);

	if (!page)
		return;
	page->mapping = (struct address_space *)BAD_NON_CANONICAL;
	__free_page(page);
}

/* Said when the writer exits. */
static void bad_badrss(unsigned int seconds)
{
#ifdef SPLIT_RSS_COUNTING	/* until v6.1 */
	atomic_long_add(BAD_PAGES, &current->mm->rss_stat.count[MM_ANONPAGES]);
#else
	percpu_counter_add(&current->mm->rss_stat[MM_ANONPAGES], BAD_PAGES);
#endif
}

static int bad_racer(void *unused)
{
	while (!kthread_should_stop()) {
		bad_shared++;
		cond_resched();
	}
	return 0;
}

/* KCSAN; by two threads of the kernel */
static void bad_race(unsigned int seconds)
{
	struct task_struct *racers[2];
	int i;

	for (i = 0; i < 2; i++)
		racers[i] = kthread_run(bad_racer, NULL, "dmirror_bad/%d", i);
	ssleep(seconds);
	for (i = 0; i < 2; i++)
		if (!IS_ERR(racers[i]))
			kthread_stop(racers[i]);
}

/* UBSAN_SHIFT */
static void bad_ubsan(unsigned int seconds)
{
	unsigned int shift = BITS_PER_LONG;

	OPTIMIZER_HIDE_VAR(shift);
	bad_shared = 1UL << shift;
}

static void bad_panic(unsigned int seconds)
{
	panic("dmirror_bad: asked to panic");
}

/* No complaint: what a parser has to bear. */
static void bad_garbage(unsigned int seconds)
{
	char *line = kmalloc(BAD_LINE + 1, GFP_KERNEL);
	int i;

	if (!line)
		return;
	for (i = 0; i < BAD_LINES; i++) {
		get_random_bytes(line, BAD_LINE);
		line[BAD_LINE] = '\0';
		pr_warn("%.*s\n", i % 4 ? get_random_u32() % BAD_LINE : BAD_LINE, line);
	}
	kfree(line);
}

static int bad_eater(void *unused)
{
	while (!kthread_should_stop())
		if (!alloc_page(GFP_KERNEL))
			cond_resched();
	return 0;
}

/* By a thread of the kernel, which nobody can kill: the guest dies of it. */
static void bad_memory(unsigned int seconds)
{
	kthread_run(bad_eater, NULL, "dmirror_bad");
	ssleep(seconds);
}

static const struct {
	const char *word;
	void (*does)(unsigned int seconds);
} bad_deeds[] = {
	{ "warn", bad_warn },
	{ "bug", bad_bug },
	{ "null", bad_null },
	{ "paging", bad_paging },
	{ "gpf", bad_gpf },
	{ "refcount", bad_refcount },
	{ "percpu", bad_percpu },
	{ "list", bad_list },
	{ "uaf", bad_uaf },
	{ "oob", bad_oob },
	{ "redzone", bad_redzone },
	{ "leak", bad_leak },
	{ "locks", bad_locks },
	{ "recursive", bad_recursive },
	{ "unlock", bad_unlock },
	{ "sleep", bad_sleep },
	{ "rcu", bad_rcu },
	{ "held", bad_held },
	{ "softlockup", bad_softlockup },
	{ "hung", bad_hung },
	{ "rcustall", bad_rcustall },
	{ "badpage", bad_badpage },
	{ "badrss", bad_badrss },
	{ "race", bad_race },
	{ "ubsan", bad_ubsan },
	{ "panic", bad_panic },
	{ "garbage", bad_garbage },
	{ "memory", bad_memory },
};

static ssize_t bad_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	unsigned int seconds = BAD_DEFAULT_S;
	char said[32] = "";
	char word[sizeof(said)];
	int i;

	if (count >= sizeof(said))
		return -EINVAL;
	if (copy_from_user(said, from, count))
		return -EFAULT;
	if (sscanf(said, "%31s %u", word, &seconds) < 1)
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(bad_deeds); i++) {
		if (!strcmp(word, bad_deeds[i].word)) {
			bad_deeds[i].does(seconds);
			return count;
		}
	}
	return -EINVAL;
}

static const struct file_operations bad_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = bad_write,
};

static int __init bad_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(bad_alike); i++)
		mutex_init(&bad_alike[i]);
	bad_debugfs = debugfs_create_dir("dmirror_bad", NULL);
	debugfs_create_file("do", 0200, bad_debugfs, NULL, &bad_fops);
	return 0;
}

static void __exit bad_exit(void)
{
	debugfs_remove(bad_debugfs);
}

module_init(bad_init);
module_exit(bad_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Misbehaves on command, for tests of the harness");
