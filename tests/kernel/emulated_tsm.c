// SPDX-License-Identifier: GPL-2.0
/*
 * For test kernels only: a provider of configfs-tsm whose reports come from a
 * process on the host, behind the second serial port (a 16550 at 0x2f8). No
 * other driver of this kernel touches that port.
 *
 * All numbers are 32 bits, little-endian.
 *
 * Once, when the kernel starts:
 *   guest: "EMUTSM0\n"
 *   host:  "sev_guest\n" or "tdx_guest\n", within a second; otherwise there is
 *          no provider
 * For each report:
 *   guest: "EMUTSM1\n", length, inblob
 *   host:  length, outblob, length, auxblob. A first length of zero is the
 *          whole answer: busy
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/init.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/serial_reg.h>
#include <linux/string.h>
#include <linux/tsm.h>

#define PORT 0x2f8

/* For the name, and for each byte of a report's answer. */
#define NAME_MS 1000
#define BYTE_MS 5000

static char name[] = "sev_guest\n";

static int wait_for(u8 bit, unsigned int ms)
{
	ktime_t end = ktime_add_ms(ktime_get(), ms);

	while (!(inb(PORT + UART_LSR) & bit)) {
		if (ktime_after(ktime_get(), end))
			return -ETIMEDOUT;
		cpu_relax();
	}
	return 0;
}

static int send(const void *data, size_t length)
{
	const u8 *byte = data;

	for (; length; length--) {
		int rc = wait_for(UART_LSR_THRE, BYTE_MS);

		if (rc)
			return rc;
		outb(*byte++, PORT + UART_TX);
	}
	return 0;
}

static int receive(void *data, size_t length, unsigned int ms)
{
	u8 *byte = data;

	for (; length; length--) {
		int rc = wait_for(UART_LSR_DR, ms);

		if (rc)
			return rc;
		*byte++ = inb(PORT + UART_RX);
	}
	return 0;
}

static int receive_blob(u8 **blob, size_t *blob_len)
{
	__le32 wire;
	u32 length;
	int rc = receive(&wire, sizeof(wire), BYTE_MS);

	*blob = NULL;
	*blob_len = 0;
	length = le32_to_cpu(wire);
	if (rc || !length)
		return rc;
	if (length > TSM_OUTBLOB_MAX)
		return -EIO;
	*blob = kvzalloc(length, GFP_KERNEL);
	if (!*blob)
		return -ENOMEM;
	*blob_len = length;
	/* The caller's report owns it, also after a failure. */
	return receive(*blob, length, BYTE_MS);
}

static int report_new(struct tsm_report *report, void *data)
{
	__le32 length = cpu_to_le32(report->desc.inblob_len);
	int rc;

	/* What came too late for an earlier request is no answer to this one. */
	while (inb(PORT + UART_LSR) & UART_LSR_DR)
		inb(PORT + UART_RX);
	rc = send("EMUTSM1\n", 8);
	if (!rc)
		rc = send(&length, sizeof(length));
	if (!rc)
		rc = send(report->desc.inblob, report->desc.inblob_len);
	if (!rc)
		rc = receive_blob(&report->outblob, &report->outblob_len);
	if (!rc && !report->outblob)
		rc = -EBUSY;
	if (!rc)
		rc = receive_blob(&report->auxblob, &report->auxblob_len);
	return rc;
}

static bool attr_visible(int n)
{
	return n == TSM_REPORT_GENERATION || n == TSM_REPORT_PROVIDER;
}

/* As the real providers: certificates are offered by sev_guest alone. */
static bool bin_attr_visible(int n)
{
	return n == TSM_REPORT_INBLOB || n == TSM_REPORT_OUTBLOB ||
	       (n == TSM_REPORT_AUXBLOB && name[0] == 's');
}

static const struct tsm_ops ops = {
	.name = name,
	.report_new = report_new,
	.report_attr_visible = attr_visible,
	.report_bin_attr_visible = bin_attr_visible,
};

static int __init emulated_tsm_init(void)
{
	/* Where no port is, the scratch register keeps nothing. */
	outb(0x5a, PORT + UART_SCR);
	if (inb(PORT + UART_SCR) != 0x5a)
		return 0;
	outb(0, PORT + UART_IER);
	outb(UART_LCR_WLEN8, PORT + UART_LCR);
	outb(UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT,
	     PORT + UART_FCR);
	outb(UART_MCR_DTR | UART_MCR_RTS, PORT + UART_MCR);
	if (send("EMUTSM0\n", 8) || receive(name, sizeof(name) - 1, NAME_MS))
		return 0;
	if (strcmp(name, "sev_guest\n") && strcmp(name, "tdx_guest\n"))
		return 0;
	name[sizeof(name) - 2] = '\0';
	pr_info("%s\n", name);
	return tsm_register(&ops, NULL);
}
late_initcall(emulated_tsm_init);
