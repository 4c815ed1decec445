/* SPDX-License-Identifier: Apache-2.0
 *
 * libFuzzer's entry points around an embedded Python that imports the instrumented extensions.
 *
 * libFuzzer (LLVM, docs/LibFuzzer) sees two kinds of coverage: the edges of the C that Cython
 * makes, counted by clang's instrumentation, and pairs of Python blocks, counted in libFuzzer's
 * extra counters. The target is a Python callable that takes bytes; an exception that leaves it
 * is a finding. Python sees this file as module `_harness`.
 */
#include <Python.h>
#include <sanitizer/asan_interface.h>
#include <stdint.h>
#include <stdlib.h>

#define BLOCKS (1u << 15) /* counters; a power of two */

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t blocks[BLOCKS];
static uint32_t previous_block;
static PyObject *target;

/* --- What the targets may ask for ---------------------------------------------------- */

/* A bytearray has one byte more than its length: make that one as untouchable as those behind it. */
static PyObject *guard(PyObject *self, PyObject *data)
{
	if (!PyByteArray_CheckExact(data)) {
		PyErr_SetString(PyExc_TypeError, "guard takes a bytearray");
		return NULL;
	}
	if (PyByteArray_GET_SIZE(data) > 0)
		ASAN_POISON_MEMORY_REGION(PyByteArray_AS_STRING(data) + PyByteArray_GET_SIZE(data), 1);
	return Py_NewRef(data);
}

/* A block of Python was entered, by its number: fuzz/branches.py. What counts is the step from the last one. */
static PyObject *hit(PyObject *self, PyObject *number)
{
	uint32_t block = (uint32_t)PyLong_AsUnsignedLongMask(number);

	blocks[(block ^ previous_block >> 1) % BLOCKS]++;
	previous_block = block;
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{"guard", guard, METH_O, "Let the address sanitizer see a bytearray's end; gives it back."},
	{"hit", hit, METH_O, "Count a block of Python as covered."},
	{NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_harness", NULL, -1, methods};

static PyObject *make_module(void)
{
	return PyModule_Create(&module);
}

/* --- What libFuzzer calls -------------------------------------------------------------- */

static void need(int right)
{
	if (right)
		return;
	PyErr_Print();
	exit(2);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *name = getenv("KDHT_FUZZ_TARGET");
	PyObject *targets;
	PyConfig config;

	PyImport_AppendInittab("_harness", make_module);
	PyConfig_InitPythonConfig(&config);
	config.install_signal_handlers = 0;
	PyConfig_SetBytesString(&config, &config.program_name, KDHT_FUZZ_PYTHON);
	if (PyStatus_Exception(Py_InitializeFromConfig(&config)))
		exit(2);
	PyConfig_Clear(&config);
	need((targets = PyImport_ImportModule("fuzz.targets")) != NULL);
	need((target = PyObject_CallMethod(targets, "load", "s", name ? name : "")) != NULL);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	PyObject *result = NULL, *input = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);

	previous_block = 0;
	if (input != NULL)
		result = PyObject_CallOneArg(target, input);
	if (result == NULL) {
		PyErr_Print();
		abort();
	}
	Py_DECREF(result);
	Py_DECREF(input);
	return 0;
}
