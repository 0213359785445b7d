/* Layout, continued: rows as binary COPY. Part of _native.c. */

/* Days from 2000-01-01 in the proleptic Gregorian calendar. */
static long long days_of(long year, unsigned month, unsigned day) {
    year -= month <= 2;
    long era = year / 400; /* Years are 1 and later. */
    if (year < 0) era = -1;
    unsigned of_era = (unsigned)(year - era * 400);
    unsigned of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return (long long)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 730425;
}

static int uuid_bytes(const State *state, char *at, PyObject *value) {
    PyObject *number = number_of_uuid(state, value);
    if (number == NULL) return -1;
    int outcome = -1;
    if (PyLong_CheckExact(number)) {
#if PY_VERSION_HEX >= 0x030D0000
        Py_ssize_t needed = PyLong_AsNativeBytes(number, at, 16, Py_ASNATIVEBYTES_BIG_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER);
        outcome = needed < 0 ? -1 : 0;
#else
        outcome = _PyLong_AsByteArray((PyLongObject *)number, (unsigned char *)at, 16, 0, 0);
#endif
    } else
        PyErr_SetString(PyExc_TypeError, "a UUID is needed");
    Py_DECREF(number);
    return outcome;
}

static int put_text(Buffer *buffer, PyObject *value) {
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(value, &length);
    if (text == NULL) return -1;
    if (length > INT32_MAX) { PyErr_SetString(PyExc_OverflowError, "a text is longer than a column takes"); return -1; }
    char *at = reserve(buffer, length + 4);
    if (at == NULL) return -1;
    memcpy(put(at, (unsigned long long)length, 4), text, (size_t)length);
    return 0;
}

static int put_number(Buffer *buffer, int wire, PyObject *value) {
    int bytes = wire == INT2 ? 2 : wire == INT4 ? 4 : 8;
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (number == -1 && PyErr_Occurred()) return -1;
    long long bound = bytes == 8 ? INT64_MAX : (1LL << (bytes * 8 - 1)) - 1;
    if (overflow || number > bound || number < -bound - 1) { PyErr_SetString(PyExc_OverflowError, "out of range"); return -1; }
    char *at = reserve(buffer, bytes + 4);
    if (at == NULL) return -1;
    put(put(at, (unsigned long long)bytes, 4), (unsigned long long)number, bytes);
    return 0;
}

static int put_moment(Buffer *buffer, int wire, PyObject *value) {
    int is_date = wire == DATE;
    if (is_date ? !PyDate_CheckExact(value) : !PyDateTime_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, is_date ? "a date is needed" : "a datetime is needed");
        return -1;
    }
    if (!is_date && PyDateTime_DATE_GET_TZINFO(value) != PyDateTime_TimeZone_UTC) {
        PyErr_SetString(PyExc_TypeError, "a datetime in UTC is needed");
        return -1;
    }
    long long days = days_of(PyDateTime_GET_YEAR(value), PyDateTime_GET_MONTH(value), PyDateTime_GET_DAY(value));
    int bytes = is_date ? 4 : 8;
    char *at = reserve(buffer, bytes + 4);
    if (at == NULL) return -1;
    if (!is_date) {
        long long seconds = days * 86400 + PyDateTime_DATE_GET_HOUR(value) * 3600 + PyDateTime_DATE_GET_MINUTE(value) * 60
                            + PyDateTime_DATE_GET_SECOND(value);
        days = seconds * 1000000 + PyDateTime_DATE_GET_MICROSECOND(value);
    }
    put(put(at, (unsigned long long)bytes, 4), (unsigned long long)days, bytes);
    return 0;
}

static int put_float(Buffer *buffer, PyObject *value) {
    double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred()) return -1;
    unsigned long long bits;
    memcpy(&bits, &number, 8);
    char *at = reserve(buffer, 12);
    if (at == NULL) return -1;
    put(put(at, 8, 4), bits, 8);
    return 0;
}

static int put_null(Buffer *buffer) {
    char *at = reserve(buffer, 4);
    if (at == NULL) return -1;
    put(at, 0xffffffffULL, 4);
    return 0;
}

static int put_json(Buffer *buffer, int wire, PyObject *dumps, PyObject *value) {
    PyObject *text = PyObject_CallOneArg(dumps, value);
    Py_ssize_t length, version = wire == JSONB;
    const char *data = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &length);
    if (data != NULL && length >= INT32_MAX) { PyErr_SetString(PyExc_OverflowError, "a text is longer than a column takes"); data = NULL; }
    char *at = data == NULL ? NULL : reserve(buffer, length + version + 4);
    if (at != NULL) {
        at = put(at, (unsigned long long)(length + version), 4);
        if (version) *at++ = 1;
        memcpy(at, data, (size_t)length);
    }
    Py_XDECREF(text);
    return at == NULL ? -1 : 0;
}

static int put_label(const State *state, Buffer *buffer, PyObject *labels, PyObject *member) {
    PyObject *name = PyObject_GetAttr(member, state->str_name);
    PyObject *label = name == NULL ? NULL : PyObject_GetItem(labels, name);
    int outcome = label == NULL ? -1 : put_text(buffer, label);
    Py_XDECREF(name);
    Py_XDECREF(label);
    return outcome;
}

static int put_of_driver(Buffer *buffer, PyObject *dump, PyObject *value) {
    PyObject *dumped = PyObject_CallOneArg(dump, value);
    Py_buffer view;
    if (dumped == NULL || PyObject_GetBuffer(dumped, &view, PyBUF_SIMPLE) < 0) { Py_XDECREF(dumped); return -1; }
    char *at = NULL;
    if (view.len > INT32_MAX) PyErr_SetString(PyExc_OverflowError, "a value is longer than a column takes");
    else at = reserve(buffer, view.len + 4);
    if (at != NULL) memcpy(put(at, (unsigned long long)view.len, 4), view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    Py_DECREF(dumped);
    return at == NULL ? -1 : 0;
}

static int put_array(const State *state, Buffer *buffer, const Details *details, PyObject *value);

static int put_value(const State *state, Buffer *buffer, int wire, const Details *details, PyObject *value) {
    char *at;
    if (value == Py_None) return put_null(buffer);
    switch (wire) {
    case INT2: case INT4: case INT8: return put_number(buffer, wire, value);
    case BOOL:
        at = reserve(buffer, 5);
        if (at == NULL) return -1;
        put(put(at, 1, 4), value == Py_True, 1);
        return 0;
    case UUID_:
        at = reserve(buffer, 20);
        if (at == NULL) return -1;
        return uuid_bytes(state, put(at, 16, 4), value);
    case TIMESTAMPTZ: case DATE: return put_moment(buffer, wire, value);
    case TEXT: return put_text(buffer, value);
    case FLOAT8: return put_float(buffer, value);
    case NUMERIC: return put_numeric(state, buffer, value);
    case JSON: case JSONB: return put_json(buffer, wire, PyTuple_GET_ITEM(details->helper, 0), value);
    case ARRAY: return put_array(state, buffer, details, value);
    case ENUM: return put_label(state, buffer, PyTuple_GET_ITEM(details->helper, 1), value);
    case DRIVER: return put_of_driver(buffer, PyTuple_GET_ITEM(details->helper, 0), value);
    }
    PyErr_SetString(PyExc_TypeError, "a column of the table cannot be written here");
    return -1;
}

/* Number of dimensions, whether there is a NULL, the elements' type; of the only dimension size and lower bound; the elements. */
static int put_array(const State *state, Buffer *buffer, const Details *details, PyObject *value) {
    if (!PyList_CheckExact(value)) { PyErr_SetString(PyExc_TypeError, "a list is needed"); return -1; }
    Py_ssize_t size = PyList_GET_SIZE(value), begin = buffer->used;
    unsigned has_null = 0;
    char *at = reserve(buffer, size == 0 ? 16 : 24);
    if (at == NULL) return -1;
    for (Py_ssize_t number = 0; number < size; number++) {
        has_null |= PyList_GET_ITEM(value, number) == Py_None;
        if (put_value(state, buffer, details->element_wire, NULL, PyList_GET_ITEM(value, number)) < 0) return -1;
    }
    if (buffer->used - begin - 4 > INT32_MAX) { PyErr_SetString(PyExc_OverflowError, "an array is longer than a column takes"); return -1; }
    at = put(buffer->data + begin, (unsigned long long)(buffer->used - begin - 4), 4);
    at = put(put(put(at, size > 0, 4), has_null, 4), details->element_oid, 4);
    if (size > 0) put(put(at, (unsigned long long)size, 4), 1, 4);
    return 0;
}

/* dump(rows): the rows of binary COPY, without header and trailer. */
static PyObject *layout_dump(PyObject *self, PyObject *rows) {
    const Layout *layout = (Layout *)self;
    PyObject *sequence = PySequence_Fast(rows, "a sequence of rows is needed"), *dumped = NULL;
    if (sequence == NULL) return NULL;
    Buffer buffer = {NULL, 0, 0};
    for (Py_ssize_t number = 0; number < PySequence_Fast_GET_SIZE(sequence); number++) {
        PyObject *row = PySequence_Fast_GET_ITEM(sequence, number);
        char *at = check_row(layout, row) < 0 ? NULL : reserve(&buffer, 2);
        if (at == NULL) goto end;
        put(at, (unsigned long long)layout->size, 2);
        for (Py_ssize_t column = 0; column < layout->size; column++) {
            PyObject *value = value_of(layout, row, column);
            if (value == NULL || put_value(layout->state, &buffer, layout->wires[column], &layout->columns[column], value) < 0) goto end;
        }
    }
    dumped = PyBytes_FromStringAndSize(buffer.data, buffer.used);
end:
    PyMem_Free(buffer.data);
    Py_DECREF(sequence);
    return dumped;
}

static PyMethodDef layout_methods[] = {
    {"clone", layout_clone, METH_O, "Copy a row into a writable one."},
    {"convert", layout_convert, METH_O, "Convert every value of a writable row in place."},
    {"dump", layout_dump, METH_O, "Return rows as the rows of a binary COPY."},
    {"load", layout_load, METH_O, "Return the row of a block that is exactly one row of a binary COPY; None of any other block."},
    {NULL},
};
static PyType_Slot layout_slots[] = {
    {Py_tp_new, layout_new}, {Py_tp_dealloc, layout_dealloc}, {Py_tp_traverse, layout_traverse}, {Py_tp_clear, layout_clear},
    {Py_tp_methods, layout_methods}, {Py_tp_doc, "The slots of a record's row classes."}, {0, NULL},
};
static PyType_Spec layout_spec = {"sequent_py._native.Layout", sizeof(Layout), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, layout_slots};
