/* Keys: what stands for some of a row's values in dictionaries. Part of _native.c. */

typedef struct { Py_ssize_t size; Py_ssize_t *columns; } Columns;

static int read_columns(const Layout *layout, PyObject *names, Columns *columns) {
    columns->columns = columns_of(layout, names, &columns->size);
    return columns->columns == NULL ? -1 : 0;
}

/* The key of a row: one value's part, or a tuple of parts for none or several. */
static PyObject *key_of(const Layout *layout, const Columns *columns, PyObject *row) {
    if (columns->size == 1) {
        PyObject *value = value_of(layout, row, columns->columns[0]);
        return value == NULL ? NULL : part_of(layout, columns->columns[0], value);
    }
    PyObject *key = PyTuple_New(columns->size);
    if (key == NULL) return NULL;
    for (Py_ssize_t number = 0; number < columns->size; number++) {
        PyObject *value = value_of(layout, row, columns->columns[number]);
        PyObject *part = value == NULL ? NULL : part_of(layout, columns->columns[number], value);
        if (part == NULL) { Py_DECREF(key); return NULL; }
        PyTuple_SET_ITEM(key, number, part);
    }
    return key;
}

static int are_keys(const Layout *layout, const Columns *columns) {
    for (Py_ssize_t number = 0; number < columns->size; number++)
        if (layout->parts[columns->columns[number]] == NO_KEY) {
            PyErr_SetString(PyExc_ValueError, "a column of the key has no part here");
            return 0;
        }
    return 1;
}
