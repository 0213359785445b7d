/* Rows in memory, in C: what sequent_py.persistors generates as Python functions, for tables whose columns have common types.
 *
 * Optional. Every object here stands for one generated function (or one small class) and does exactly what that does; where it meets
 * something out of the ordinary it calls the Python it stands for. So there is one definition of behaviour, in Python, and this file is
 * only faster: a value of a common type is accepted here, and everything else goes to the column's own conversion.
 *
 *   Layout    the slots of a record's row classes: clone(row), dump(rows)
 *   Creator   RowOperations.compile_create: a locked row of values, stored under its key and in its indexes
 *   Finisher  RowOperations.compile_finish: converts what an update's block has set, and says whether a key may have moved
 *   Probe     RowOperations.compile_lookup: from filters to a key, or to what an index has under it
 *   Access    of one MemoryTable: first(where), create(values), update(where, touched)
 *   Update    blocks.MemoryUpdate
 *   Setter    events.set_envelope
 *   moment    events.moment
 *   LazyMoment the property events.Event.created_at
 *   raw_event reader.parse, of a block that is one row
 *
 * Rows are instances of classes with __slots__; a slot is an object pointer at a fixed offset, NULL while it is not set.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <datetime.h>
#include <structmember.h>
#include <string.h>

/* Rises with what sequent_py asks of this module, there and in native.py. */
#define INTERFACE 4

/* How a value is tested to be stored as it is; see column_types.passes. OTHER is never accepted here. */
enum Kind { OTHER, INT2, INT4, INT8, BOOL, UUID_, TIMESTAMPTZ, DATE, TEXT, FLOAT8, KINDS };

/* What stands for a value in keys; see column_types.key. */
enum KeyPart { PLAIN, UUID_INT, NO_KEY };

typedef struct {
    PyObject *uuid_type;
    PyObject *str_int, *str_limit, *str_finish, *str_first, *str_store, *str_class, *str_touch, *str_aggregate_id;
    PyTypeObject *layout, *creator, *finisher, *probe, *access, *update, *shortcut, *setter, *lazy_moment;
} State;

static struct PyModuleDef module_definition;

static State *state_of(PyTypeObject *type) { return (State *)PyType_GetModuleState(type); }

/* ------------------------------------------------------------------ Layout */

typedef struct {
    PyObject_HEAD
    State *state;
    PyTypeObject *writable, *locked;
    Py_ssize_t size;
    Py_ssize_t *offsets;
    int *kinds, *parts, *wires;
    PyObject *names, *coerces, *numbers; /* tuple of str, tuple of callables, dict from str to int */
} Layout;

static inline PyObject **slot_of(const Layout *layout, PyObject *row, Py_ssize_t column) {
    return (PyObject **)((char *)row + layout->offsets[column]);
}

static int has_layout(const Layout *layout, PyObject *row) {
    return Py_IS_TYPE(row, layout->locked) || Py_IS_TYPE(row, layout->writable);
}

static int check_row(const Layout *layout, PyObject *row) {
    if (has_layout(layout, row)) return 0;
    PyErr_Format(PyExc_TypeError, "a row of %s is needed, not %.80R", layout->locked->tp_name, row);
    return -1;
}

/* Borrowed; sets AttributeError where the block has deleted the value. */
static PyObject *value_of(const Layout *layout, PyObject *row, Py_ssize_t column) {
    PyObject *value = *slot_of(layout, row, column);
    if (value == NULL) PyErr_SetObject(PyExc_AttributeError, PyTuple_GET_ITEM(layout->names, column));
    return value;
}

static int accepts(const Layout *layout, Py_ssize_t column, PyObject *value) {
    int overflow;
    long long number;
    switch (layout->kinds[column]) {
    case INT2: case INT4: case INT8:
        if (!PyLong_CheckExact(value)) return 0;
        number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow) return 0;
        if (layout->kinds[column] == INT4) return number >= INT32_MIN && number <= INT32_MAX;
        if (layout->kinds[column] == INT2) return number >= INT16_MIN && number <= INT16_MAX;
        return 1;
    case BOOL: return value == Py_True || value == Py_False;
    case UUID_: return (PyObject *)Py_TYPE(value) == layout->state->uuid_type;
    case TIMESTAMPTZ:
        return PyDateTime_CheckExact(value) && PyDateTime_DATE_GET_TZINFO(value) == PyDateTime_TimeZone_UTC;
    case DATE: return PyDate_CheckExact(value);
    case TEXT:
        return PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value)
            && memchr(PyUnicode_DATA(value), 0, (size_t)PyUnicode_GET_LENGTH(value)) == NULL;
    case FLOAT8: return PyFloat_CheckExact(value) && PyFloat_AS_DOUBLE(value) == PyFloat_AS_DOUBLE(value);
    default: return 0;
    }
}

/* A new reference to what the column stores for a value. */
static PyObject *converted(const Layout *layout, Py_ssize_t column, PyObject *value) {
    if (accepts(layout, column, value)) return Py_NewRef(value);
    return PyObject_CallOneArg(PyTuple_GET_ITEM(layout->coerces, column), value);
}

/* A new reference to what stands for a value in keys. */
static PyObject *part_of(const Layout *layout, Py_ssize_t column, PyObject *value) {
    if (layout->parts[column] == UUID_INT && value != Py_None)
        return PyObject_GetAttr(value, layout->state->str_int);
    return Py_NewRef(value);
}

static PyObject *clone_row(const Layout *layout, PyObject *row) {
    if (check_row(layout, row) < 0) return NULL;
    PyObject *copied = layout->writable->tp_alloc(layout->writable, 0);
    if (copied == NULL) return NULL;
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *value = value_of(layout, row, column);
        if (value == NULL) { Py_DECREF(copied); return NULL; }
        *slot_of(layout, copied, column) = Py_NewRef(value);
    }
    return copied;
}

static PyObject *layout_clone(PyObject *self, PyObject *row) { return clone_row((Layout *)self, row); }

/* Numbers of the columns named, in a new array; NULL with KeyError. */
static Py_ssize_t *columns_of(const Layout *layout, PyObject *names, Py_ssize_t *count) {
    *count = PyTuple_GET_SIZE(names);
    Py_ssize_t *columns = PyMem_New(Py_ssize_t, *count ? *count : 1);
    if (columns == NULL) { PyErr_NoMemory(); return NULL; }
    for (Py_ssize_t number = 0; number < *count; number++) {
        PyObject *found = PyDict_GetItemWithError(layout->numbers, PyTuple_GET_ITEM(names, number));
        if (found == NULL) {
            if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, PyTuple_GET_ITEM(names, number));
            PyMem_Free(columns);
            return NULL;
        }
        columns[number] = PyLong_AsSsize_t(found);
    }
    return columns;
}

static int read_numbers(PyObject *tuple, int *into, Py_ssize_t size, int most) {
    if (PyTuple_GET_SIZE(tuple) != size) { PyErr_SetString(PyExc_ValueError, "one number per column is needed"); return -1; }
    for (Py_ssize_t column = 0; column < size; column++) {
        long number = PyLong_AsLong(PyTuple_GET_ITEM(tuple, column));
        if (number < 0 || number >= most) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "unknown kind");
            return -1;
        }
        into[column] = (int)number;
    }
    return 0;
}

/* The offset of a slot of a class; -1 and TypeError where the name is none of its slots. */
static Py_ssize_t offset_of(PyTypeObject *cls, PyObject *name) {
    PyObject *descriptor = PyObject_GetAttr((PyObject *)cls, name);
    if (descriptor == NULL) return -1;
    PyMemberDef *member = Py_IS_TYPE(descriptor, &PyMemberDescr_Type) ? ((PyMemberDescrObject *)descriptor)->d_member : NULL;
    Py_ssize_t offset = member != NULL && member->type == T_OBJECT_EX ? member->offset : -1;
    Py_DECREF(descriptor);
    if (offset < 0) PyErr_Format(PyExc_TypeError, "%U is no slot of %s", name, cls->tp_name);
    return offset;
}

static int find_slots(Layout *layout) {
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *name = PyTuple_GET_ITEM(layout->names, column);
        layout->offsets[column] = offset_of(layout->writable, name);
        if (layout->offsets[column] < 0) return -1;
        PyObject *number = PyLong_FromSsize_t(column);
        if (number == NULL || PyDict_SetItem(layout->numbers, name, number) < 0) { Py_XDECREF(number); return -1; }
        Py_DECREF(number);
    }
    return 0;
}

static PyObject *layout_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"writable", "locked", "names", "kinds", "parts", "wires", "coerces", NULL};
    PyTypeObject *writable, *locked;
    PyObject *names, *kinds, *parts, *wires, *coerces;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!O!O!O!O!O!", words, &PyType_Type, &writable, &PyType_Type, &locked,
                                     &PyTuple_Type, &names, &PyTuple_Type, &kinds, &PyTuple_Type, &parts, &PyTuple_Type, &wires,
                                     &PyTuple_Type, &coerces))
        return NULL;
    if (!PyType_IsSubtype(locked, writable) || locked->tp_basicsize != writable->tp_basicsize) {
        PyErr_SetString(PyExc_TypeError, "the locked class must be a subclass with the same slots");
        return NULL;
    }
    Layout *layout = (Layout *)type->tp_alloc(type, 0);
    if (layout == NULL) return NULL;
    layout->state = state_of(type);
    layout->writable = (PyTypeObject *)Py_NewRef(writable);
    layout->locked = (PyTypeObject *)Py_NewRef(locked);
    layout->names = Py_NewRef(names);
    layout->coerces = Py_NewRef(coerces);
    layout->numbers = PyDict_New();
    Py_ssize_t size = layout->size = PyTuple_GET_SIZE(names);
    layout->offsets = PyMem_New(Py_ssize_t, size + 1);
    layout->kinds = PyMem_New(int, size + 1);
    layout->parts = PyMem_New(int, size + 1);
    layout->wires = PyMem_New(int, size + 1);
    if (layout->numbers == NULL || layout->offsets == NULL || layout->kinds == NULL || layout->parts == NULL || layout->wires == NULL) {
        PyErr_NoMemory();
        goto fail;
    }
    if (PyTuple_GET_SIZE(coerces) != size) { PyErr_SetString(PyExc_ValueError, "one conversion per column is needed"); goto fail; }
    if (read_numbers(kinds, layout->kinds, size, KINDS) < 0 || read_numbers(parts, layout->parts, size, NO_KEY + 1) < 0
        || read_numbers(wires, layout->wires, size, KINDS) < 0 || find_slots(layout) < 0)
        goto fail;
    return (PyObject *)layout;
fail:
    Py_DECREF(layout);
    return NULL;
}

static int layout_traverse(PyObject *self, visitproc visit, void *arg) {
    Layout *layout = (Layout *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(layout->writable);
    Py_VISIT(layout->locked);
    Py_VISIT(layout->names);
    Py_VISIT(layout->coerces);
    Py_VISIT(layout->numbers);
    return 0;
}

static int layout_clear(PyObject *self) {
    Layout *layout = (Layout *)self;
    Py_CLEAR(layout->coerces);
    return 0;
}

static void layout_dealloc(PyObject *self) {
    Layout *layout = (Layout *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(layout->writable);
    Py_XDECREF(layout->locked);
    Py_XDECREF(layout->names);
    Py_XDECREF(layout->coerces);
    Py_XDECREF(layout->numbers);
    PyMem_Free(layout->offsets);
    PyMem_Free(layout->kinds);
    PyMem_Free(layout->parts);
    PyMem_Free(layout->wires);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ------------------------------------------------------------------ COPY out of rows */

typedef struct { char *data; Py_ssize_t used, room; } Buffer;

static char *reserve(Buffer *buffer, Py_ssize_t bytes) {
    if (buffer->used + bytes > buffer->room) {
        Py_ssize_t room = buffer->room * 2 + bytes;
        char *data = PyMem_Realloc(buffer->data, (size_t)room);
        if (data == NULL) { PyErr_NoMemory(); return NULL; }
        buffer->data = data;
        buffer->room = room;
    }
    char *at = buffer->data + buffer->used;
    buffer->used += bytes;
    return at;
}

static char *put(char *at, unsigned long long number, int bytes) {
    for (int byte = bytes - 1; byte >= 0; byte--, number >>= 8) at[byte] = (char)(number & 0xff);
    return at + bytes;
}

static unsigned long long get(const unsigned char *at, int bytes) {
    unsigned long long number = 0;
    for (int byte = 0; byte < bytes; byte++) number = number << 8 | at[byte];
    return number;
}

/* Days from 2000-01-01 in the proleptic Gregorian calendar. */
static long long days_of(long year, unsigned month, unsigned day) {
    year -= month <= 2;
    long era = year / 400; /* Years are 1 and later. */
    if (year < 0) era = -1;
    unsigned of_era = (unsigned)(year - era * 400);
    unsigned of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return (long long)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 730425;
}

static int put_uuid(const Layout *layout, char *at, PyObject *value) {
    PyObject *number = PyObject_GetAttr(value, layout->state->str_int);
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

static int put_value(const Layout *layout, Buffer *buffer, Py_ssize_t column, PyObject *value) {
    char *at;
    if (value == Py_None) {
        at = reserve(buffer, 4);
        if (at == NULL) return -1;
        put(at, 0xffffffffULL, 4);
        return 0;
    }
    switch (layout->wires[column]) {
    case INT2: case INT4: case INT8: return put_number(buffer, layout->wires[column], value);
    case BOOL:
        at = reserve(buffer, 5);
        if (at == NULL) return -1;
        put(put(at, 1, 4), value == Py_True, 1);
        return 0;
    case UUID_:
        at = reserve(buffer, 20);
        if (at == NULL) return -1;
        return put_uuid(layout, put(at, 16, 4), value);
    case TIMESTAMPTZ: case DATE: return put_moment(buffer, layout->wires[column], value);
    case TEXT: return put_text(buffer, value);
    case FLOAT8: return put_float(buffer, value);
    }
    PyErr_SetString(PyExc_TypeError, "a column of the table cannot be written here");
    return -1;
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
            if (value == NULL || put_value(layout, &buffer, column, value) < 0) goto end;
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
    {"dump", layout_dump, METH_O, "Return rows as the rows of a binary COPY."},
    {NULL},
};
static PyType_Slot layout_slots[] = {
    {Py_tp_new, layout_new}, {Py_tp_dealloc, layout_dealloc}, {Py_tp_traverse, layout_traverse}, {Py_tp_clear, layout_clear},
    {Py_tp_methods, layout_methods}, {Py_tp_doc, "The slots of a record's row classes."}, {0, NULL},
};
static PyType_Spec layout_spec = {"sequent_py._native.Layout", sizeof(Layout), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, layout_slots};

/* ------------------------------------------------------------------ keys */

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

/* ------------------------------------------------------------------ Creator */

/* Where a column's value comes from that is not given; see RowOperations._default_sources. */
enum Source { NULL_VALUE, CONSTANT, COPIED_CONSTANT, PYTHON_DEFAULT, DRAWN, REFUSED, SOURCES };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Layout *layout;
    Columns given, others, key;
    int *sources;             /* of others */
    PyObject *values;         /* tuple: constants, or what is called, of others */
    PyObject *rows;           /* dict from key to row, or NULL */
    PyObject *indexes;        /* tuple of (names, entries, collide) */
    Columns *index_columns;
    PyObject *dirty, *gone;   /* dicts by key, where a relation is behind the rows, or NULL */
    PyObject *duplicate;
} Creator;

static int set_column(const Layout *layout, PyObject *row, Py_ssize_t column, PyObject *value) {
    if (value == NULL) return -1;
    Py_XSETREF(*slot_of(layout, row, column), value);
    return 0;
}

static int fill_defaults(const Creator *creator, PyObject *row) {
    const Layout *layout = creator->layout;
    /* All conversions come before the first draw: a row that is refused uses up no number. */
    for (Py_ssize_t number = 0; number < creator->others.size; number++) {
        Py_ssize_t column = creator->others.columns[number];
        PyObject *from = PyTuple_GET_ITEM(creator->values, number), *value;
        switch (creator->sources[number]) {
        case PYTHON_DEFAULT:
            value = PyObject_CallNoArgs(from);
            if (value == NULL) return -1;
            Py_SETREF(value, converted(layout, column, value));
            break;
        case REFUSED: value = PyObject_CallOneArg(PyTuple_GET_ITEM(layout->coerces, column), Py_None); break;
        case COPIED_CONSTANT: value = PyObject_CallOneArg(PyTuple_GET_ITEM(layout->coerces, column), from); break;
        case CONSTANT: value = Py_NewRef(from); break;
        case DRAWN: continue;
        default: value = Py_NewRef(Py_None);
        }
        if (set_column(layout, row, column, value) < 0) return -1;
    }
    for (Py_ssize_t number = 0; number < creator->others.size; number++)
        if (creator->sources[number] == DRAWN
            && set_column(layout, row, creator->others.columns[number], PyObject_CallNoArgs(PyTuple_GET_ITEM(creator->values, number))) < 0)
            return -1;
    return 0;
}

/* A row in memory is new or other than that of the relation behind it. */
static int note_changed(PyObject *dirty, PyObject *gone, PyObject *key) {
    if (PyDict_SetItem(dirty, key, Py_None) < 0) return -1;
    if (PyDict_GET_SIZE(gone) == 0) return 0;
    int was_gone = PyDict_Contains(gone, key);
    return was_gone > 0 ? PyDict_DelItem(gone, key) : was_gone;
}

static int enter_row(const Creator *creator, PyObject *row) {
    PyObject *key = key_of(creator->layout, &creator->key, row);
    if (key == NULL) return -1;
    PyObject *found = PyDict_SetDefault(creator->rows, key, row);
    if (found == NULL) goto fail;
    if (found != row) {
        PyObject *error = PyObject_CallOneArg(creator->duplicate, row);
        if (error != NULL) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_XDECREF(error);
        goto fail;
    }
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(creator->indexes); number++) {
        PyObject *index = PyTuple_GET_ITEM(creator->indexes, number);
        PyObject *value = key_of(creator->layout, &creator->index_columns[number], row);
        if (value == NULL) goto fail;
        found = PyDict_SetDefault(PyTuple_GET_ITEM(index, 1), value, key);
        if (found != NULL && found != key) {
            PyObject *outcome = PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(index, 2), value, found, key, NULL);
            Py_XDECREF(outcome);
            if (outcome == NULL) found = NULL;
        }
        Py_DECREF(value);
        if (found == NULL) goto fail;
    }
    if (creator->dirty != NULL && note_changed(creator->dirty, creator->gone, key) < 0) goto fail;
    Py_DECREF(key);
    return 0;
fail:
    Py_DECREF(key);
    return -1;
}

static PyObject *creator_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    const Creator *creator = (Creator *)self;
    const Layout *layout = creator->layout;
    PyObject *values = PyVectorcall_NARGS(flags) == 1 && keywords == NULL ? arguments[0] : NULL;
    if (values == NULL || !PyDict_CheckExact(values) || PyDict_GET_SIZE(values) != creator->given.size) {
        PyErr_SetString(PyExc_TypeError, "a dict with a value for every given column is needed");
        return NULL;
    }
    PyObject *row = layout->locked->tp_alloc(layout->locked, 0);
    if (row == NULL) return NULL;
    Py_ssize_t position = 0, number = 0;
    PyObject *name, *value;
    while (PyDict_Next(values, &position, &name, &value)) {
        /* Conversions may run Python; the caller's dictionary is its own, so it stays as it is. */
        if (number >= creator->given.size) break;
        Py_ssize_t column = creator->given.columns[number++];
        if (set_column(layout, row, column, converted(layout, column, value)) < 0) goto fail;
    }
    if (fill_defaults(creator, row) < 0) goto fail;
    if (creator->rows != NULL && enter_row(creator, row) < 0) goto fail;
    return row;
fail:
    Py_DECREF(row);
    return NULL;
}

static PyObject *creator_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "given", "others", "sources", "values", "key", "rows", "indexes", "dirty", "gone", "duplicate", NULL};
    PyObject *layout, *given, *others, *sources, *values, *key, *rows, *indexes, *dirty, *gone, *duplicate;
    State *state = state_of(type);
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!O!O!O!O!OO!OOO", words, state->layout, &layout, &PyTuple_Type, &given,
                                     &PyTuple_Type, &others, &PyTuple_Type, &sources, &PyTuple_Type, &values, &PyTuple_Type, &key, &rows,
                                     &PyTuple_Type, &indexes, &dirty, &gone, &duplicate))
        return NULL;
    if ((rows != Py_None && !PyDict_CheckExact(rows)) || (dirty != Py_None && !(PyDict_CheckExact(dirty) && PyDict_CheckExact(gone)))) {
        PyErr_SetString(PyExc_TypeError, "rows, dirty and gone are dicts");
        return NULL;
    }
    Creator *creator = (Creator *)type->tp_alloc(type, 0);
    if (creator == NULL) return NULL;
    creator->vectorcall = creator_call;
    creator->layout = (Layout *)Py_NewRef(layout);
    creator->values = Py_NewRef(values);
    creator->rows = rows == Py_None ? NULL : Py_NewRef(rows);
    creator->indexes = Py_NewRef(indexes);
    creator->dirty = dirty == Py_None ? NULL : Py_NewRef(dirty);
    creator->gone = dirty == Py_None ? NULL : Py_NewRef(gone);
    creator->duplicate = Py_NewRef(duplicate);
    Py_ssize_t count = PyTuple_GET_SIZE(indexes);
    creator->index_columns = PyMem_Calloc((size_t)count + 1, sizeof(Columns));
    creator->sources = PyMem_New(int, PyTuple_GET_SIZE(others) + 1);
    if (creator->index_columns == NULL || creator->sources == NULL) { PyErr_NoMemory(); goto fail; }
    if (read_columns(creator->layout, given, &creator->given) < 0 || read_columns(creator->layout, others, &creator->others) < 0
        || read_columns(creator->layout, key, &creator->key) < 0 || !are_keys(creator->layout, &creator->key)
        || read_numbers(sources, creator->sources, creator->others.size, SOURCES) < 0)
        goto fail;
    if (PyTuple_GET_SIZE(values) != creator->others.size || creator->given.size + creator->others.size != creator->layout->size) {
        PyErr_SetString(PyExc_ValueError, "every column needs one source");
        goto fail;
    }
    for (Py_ssize_t number = 0; number < count; number++) {
        PyObject *names, *entries, *collide;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(indexes, number), "O!O!O", &PyTuple_Type, &names, &PyDict_Type, &entries, &collide)
            || read_columns(creator->layout, names, &creator->index_columns[number]) < 0
            || !are_keys(creator->layout, &creator->index_columns[number]))
            goto fail;
    }
    return (PyObject *)creator;
fail:
    Py_DECREF(creator);
    return NULL;
}

static int creator_traverse(PyObject *self, visitproc visit, void *arg) {
    Creator *creator = (Creator *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(creator->layout);
    Py_VISIT(creator->values);
    Py_VISIT(creator->rows);
    Py_VISIT(creator->indexes);
    Py_VISIT(creator->dirty);
    Py_VISIT(creator->gone);
    Py_VISIT(creator->duplicate);
    return 0;
}

static void creator_dealloc(PyObject *self) {
    Creator *creator = (Creator *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (creator->index_columns != NULL)
        for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(creator->indexes); number++)
            PyMem_Free(creator->index_columns[number].columns);
    PyMem_Free(creator->index_columns);
    PyMem_Free(creator->sources);
    PyMem_Free(creator->given.columns);
    PyMem_Free(creator->others.columns);
    PyMem_Free(creator->key.columns);
    Py_XDECREF(creator->layout);
    Py_XDECREF(creator->values);
    Py_XDECREF(creator->rows);
    Py_XDECREF(creator->indexes);
    Py_XDECREF(creator->dirty);
    Py_XDECREF(creator->gone);
    Py_XDECREF(creator->duplicate);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef creator_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Creator, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot creator_slots[] = {
    {Py_tp_new, creator_new}, {Py_tp_dealloc, creator_dealloc}, {Py_tp_traverse, creator_traverse}, {Py_tp_members, creator_members},
    {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "Makes locked rows of values, and stores them."}, {0, NULL},
};
static PyType_Spec creator_spec = {
    "sequent_py._native.Creator", sizeof(Creator), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, creator_slots,
};

/* ------------------------------------------------------------------ Finisher */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Layout *layout;
    Columns keys;
} Finisher;

/* 1: a column of a key may have changed, 0: none has, -1: error. */
static int finish_row(const Finisher *finisher, PyObject *after, PyObject *before) {
    const Layout *layout = finisher->layout;
    if (check_row(layout, after) < 0 || check_row(layout, before) < 0) return -1;
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *value = value_of(layout, after, column), *was = value_of(layout, before, column);
        if (value == NULL || was == NULL) return -1;
        if (value == was || accepts(layout, column, value)) continue;
        Py_INCREF(value); /* its conversion may run Python */
        int outcome = set_column(layout, after, column, converted(layout, column, value));
        Py_DECREF(value);
        if (outcome < 0) return -1;
    }
    for (Py_ssize_t number = 0; number < finisher->keys.size; number++) {
        Py_ssize_t column = finisher->keys.columns[number];
        if (*slot_of(layout, after, column) != *slot_of(layout, before, column)) return 1;
    }
    return 0;
}

static PyObject *finisher_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    if (PyVectorcall_NARGS(flags) != 2 || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "two rows are needed: after and before");
        return NULL;
    }
    int outcome = finish_row((Finisher *)self, arguments[0], arguments[1]);
    return outcome < 0 ? NULL : PyBool_FromLong(outcome);
}

static PyObject *finisher_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "keys", NULL};
    PyObject *layout, *keys;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!", words, state_of(type)->layout, &layout, &PyTuple_Type, &keys)) return NULL;
    Finisher *finisher = (Finisher *)type->tp_alloc(type, 0);
    if (finisher == NULL) return NULL;
    finisher->vectorcall = finisher_call;
    finisher->layout = (Layout *)Py_NewRef(layout);
    if (read_columns(finisher->layout, keys, &finisher->keys) < 0) { Py_DECREF(finisher); return NULL; }
    return (PyObject *)finisher;
}

static int finisher_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Finisher *)self)->layout);
    return 0;
}

static void finisher_dealloc(PyObject *self) {
    Finisher *finisher = (Finisher *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyMem_Free(finisher->keys.columns);
    Py_XDECREF(finisher->layout);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef finisher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Finisher, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot finisher_slots[] = {
    {Py_tp_new, finisher_new}, {Py_tp_dealloc, finisher_dealloc}, {Py_tp_traverse, finisher_traverse},
    {Py_tp_members, finisher_members}, {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "Converts what an update's block has set."}, {0, NULL},
};
static PyType_Spec finisher_spec = {
    "sequent_py._native.Finisher", sizeof(Finisher), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, finisher_slots,
};

/* ------------------------------------------------------------------ Probe */

/* What a probe answers with: the key where the container has it, or what the container has under it; else None. */
enum Answer { KNOWN_KEY, ENTRY, ANSWERS };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Layout *layout;
    Columns given; /* in the order of the filters */
    Columns parts; /* of the key: positions among the filters */
    int answer;
    int is_by_aggregate; /* whether the key is an aggregate's id, and nothing else */
    PyObject *container, *otherwise;
} Probe;

static PyObject *probe_key(const Probe *probe, PyObject **values) {
    const Layout *layout = probe->layout;
    if (probe->parts.size == 1) {
        Py_ssize_t at = probe->parts.columns[0];
        return part_of(layout, probe->given.columns[at], values[at]);
    }
    PyObject *key = PyTuple_New(probe->parts.size);
    if (key == NULL) return NULL;
    for (Py_ssize_t number = 0; number < probe->parts.size; number++) {
        Py_ssize_t at = probe->parts.columns[number];
        PyObject *part = part_of(layout, probe->given.columns[at], values[at]);
        if (part == NULL) { Py_DECREF(key); return NULL; }
        PyTuple_SET_ITEM(key, number, part);
    }
    return key;
}

#define MOST_FILTERS 16

/* With complete, the aggregates of which every row is in memory, a relation is behind the rows: otherwise then also stands for what memory cannot decide. */
static PyObject *run_probe(const Probe *probe, PyObject *where, PyObject *complete) {
    PyObject *values[MOST_FILTERS], *name, *value;
    if (!PyDict_CheckExact(where) || PyDict_GET_SIZE(where) != probe->given.size) return Py_NewRef(probe->otherwise);
    Py_ssize_t position = 0, number = 0;
    while (PyDict_Next(where, &position, &name, &value)) {
        if (!accepts(probe->layout, probe->given.columns[number], value)) return Py_NewRef(probe->otherwise);
        values[number++] = value;
    }
    PyObject *key = probe_key(probe, values);
    if (key == NULL) return NULL;
    PyObject *found = PyDict_GetItemWithError(probe->container, key);
    if (found == NULL && PyErr_Occurred()) { Py_DECREF(key); return NULL; }
    /* A row that is found by its primary key is the only one, whatever the relation has. */
    int is_decided = complete == NULL || (found != NULL && probe->answer == KNOWN_KEY);
    if (!is_decided && probe->is_by_aggregate) is_decided = PySet_Contains(complete, key);
    if (is_decided < 0) found = NULL;
    else if (!is_decided) found = Py_NewRef(probe->otherwise);
    else found = Py_NewRef(found == NULL ? Py_None : probe->answer == ENTRY ? found : key);
    Py_DECREF(key);
    return found;
}

static PyObject *probe_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    if (PyVectorcall_NARGS(flags) != 1 || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "filters are needed");
        return NULL;
    }
    return run_probe((Probe *)self, arguments[0], NULL);
}

static PyObject *probe_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "names", "parts", "answer", "is_by_aggregate", "container", "otherwise", NULL};
    PyObject *layout, *names, *parts, *container, *otherwise;
    int answer, is_by_aggregate;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!O!ipOO", words, state_of(type)->layout, &layout, &PyTuple_Type, &names,
                                     &PyTuple_Type, &parts, &answer, &is_by_aggregate, &container, &otherwise))
        return NULL;
    if (answer < 0 || answer >= ANSWERS || !PyDict_CheckExact(container) || PyTuple_GET_SIZE(names) > MOST_FILTERS) {
        PyErr_SetString(PyExc_ValueError, "no such probe");
        return NULL;
    }
    Probe *probe = (Probe *)type->tp_alloc(type, 0);
    if (probe == NULL) return NULL;
    probe->vectorcall = probe_call;
    probe->layout = (Layout *)Py_NewRef(layout);
    probe->answer = answer;
    probe->is_by_aggregate = is_by_aggregate;
    probe->container = Py_NewRef(container);
    probe->otherwise = Py_NewRef(otherwise);
    if (read_columns(probe->layout, names, &probe->given) < 0 || read_columns(probe->layout, parts, &probe->parts) < 0) goto fail;
    /* From columns to positions among the filters. */
    for (Py_ssize_t number = 0; number < probe->parts.size; number++) {
        Py_ssize_t at = 0;
        while (at < probe->given.size && probe->given.columns[at] != probe->parts.columns[number]) at++;
        if (at == probe->given.size) { PyErr_SetString(PyExc_ValueError, "a part of the key is not given"); goto fail; }
        probe->parts.columns[number] = at;
    }
    return (PyObject *)probe;
fail:
    Py_DECREF(probe);
    return NULL;
}

static int probe_traverse(PyObject *self, visitproc visit, void *arg) {
    Probe *probe = (Probe *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(probe->layout);
    Py_VISIT(probe->container);
    Py_VISIT(probe->otherwise);
    return 0;
}

static void probe_dealloc(PyObject *self) {
    Probe *probe = (Probe *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyMem_Free(probe->given.columns);
    PyMem_Free(probe->parts.columns);
    Py_XDECREF(probe->layout);
    Py_XDECREF(probe->container);
    Py_XDECREF(probe->otherwise);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef probe_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Probe, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot probe_slots[] = {
    {Py_tp_new, probe_new}, {Py_tp_dealloc, probe_dealloc}, {Py_tp_traverse, probe_traverse}, {Py_tp_members, probe_members},
    {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "From filters to a key, or to what an index has under it."}, {0, NULL},
};
static PyType_Spec probe_spec = {
    "sequent_py._native.Probe", sizeof(Probe), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, probe_slots,
};

/* ------------------------------------------------------------------ Access */

typedef struct {
    PyObject_HEAD
    State *state;
    Layout *layout;
    PyObject *table; /* the MemoryTable: asked for limit and finish, which change, and for whatever is not usual */
    PyObject *rows, *probes, *creators, *convert, *bucket, *python_first, *python_create;
    PyObject *dirty, *gone, *complete; /* of the relation behind the rows; NULL where there is none */
} Access;

typedef struct {
    PyObject_HEAD
    Access *access;
    PyObject *where, *touched, *key, *before, *after;
} Update;

/* Names of the filters or values, in their order. */
static PyObject *names_of(PyObject *values) {
    if (!PyDict_CheckExact(values)) return PySequence_Tuple(values);
    PyObject *names = PyTuple_New(PyDict_GET_SIZE(values)), *name;
    Py_ssize_t position = 0, number = 0;
    if (names == NULL) return NULL;
    while (PyDict_Next(values, &position, &name, NULL)) PyTuple_SET_ITEM(names, number++, Py_NewRef(name));
    return names;
}

/* A new reference to the key of the first row that matches, or None. */
static PyObject *first_key(const Access *access, PyObject *where) {
    PyObject *names = names_of(where);
    PyObject *probe = names == NULL ? NULL : PyDict_GetItemWithError(access->probes, names);
    Py_XDECREF(names);
    if (probe == NULL && PyErr_Occurred()) return NULL;
    if (probe != NULL && Py_IS_TYPE(probe, access->state->probe)) {
        PyObject *found = run_probe((Probe *)probe, where, access->complete);
        if (found == NULL) return NULL;
        if ((PyObject *)Py_TYPE(found) == access->bucket) {
            PyObject *key = PyObject_CallMethodNoArgs(found, access->state->str_first);
            Py_DECREF(found);
            return key;
        }
        if (found != access->convert) return found;
        Py_DECREF(found);
    }
    return PyObject_CallOneArg(access->python_first, where);
}

static PyObject *access_first(PyObject *self, PyObject *where) { return first_key((Access *)self, where); }

static PyObject *access_create(PyObject *self, PyObject *values) {
    const Access *access = (Access *)self;
    PyObject *limit = PyObject_GetAttr(access->table, access->state->str_limit);
    Py_ssize_t most = limit == NULL ? -1 : PyLong_AsSsize_t(limit);
    Py_XDECREF(limit);
    if (most == -1 && PyErr_Occurred()) return NULL;
    if (PyDict_GET_SIZE(access->rows) < most) {
        PyObject *names = names_of(values);
        PyObject *creator = names == NULL ? NULL : PyDict_GetItemWithError(access->creators, names);
        Py_XDECREF(names);
        if (creator == NULL && PyErr_Occurred()) return NULL;
        if (creator != NULL && Py_IS_TYPE(creator, access->state->creator)) {
            /* It may be replaced while it runs a conversion. */
            Py_INCREF(creator);
            PyObject *row = creator_call(creator, &values, 1, NULL);
            Py_DECREF(creator);
            return row;
        }
    }
    return PyObject_CallOneArg(access->python_create, values);
}

static PyObject *access_back(PyObject *self, PyObject *arguments) {
    Access *access = (Access *)self;
    PyObject *dirty = NULL, *gone = NULL, *complete = NULL;
    if (PyTuple_GET_SIZE(arguments) != 0
        && !PyArg_ParseTuple(arguments, "O!O!O!", &PyDict_Type, &dirty, &PyDict_Type, &gone, &PySet_Type, &complete))
        return NULL;
    Py_XSETREF(access->dirty, Py_XNewRef(dirty));
    Py_XSETREF(access->gone, Py_XNewRef(gone));
    Py_XSETREF(access->complete, Py_XNewRef(complete));
    Py_RETURN_NONE;
}

static PyObject *access_update(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    Access *access = (Access *)self;
    if (count != 2) { PyErr_SetString(PyExc_TypeError, "filters and what an update notes are needed"); return NULL; }
    PyTypeObject *type = access->state->update;
    Update *update = (Update *)type->tp_alloc(type, 0);
    if (update == NULL) return NULL;
    update->access = (Access *)Py_NewRef(self);
    update->where = Py_NewRef(arguments[0]);
    update->touched = Py_NewRef(arguments[1]);
    return (PyObject *)update;
}

static PyObject *access_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "table", "rows", "probes", "creators", "convert", "bucket", "first", "create", NULL};
    PyObject *layout, *table, *rows, *probes, *creators, *convert, *bucket, *first, *create;
    State *state = state_of(type);
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!OO!O!O!OOOO", words, state->layout, &layout, &table, &PyDict_Type, &rows,
                                     &PyDict_Type, &probes, &PyDict_Type, &creators, &convert, &bucket, &first, &create))
        return NULL;
    Access *access = (Access *)type->tp_alloc(type, 0);
    if (access == NULL) return NULL;
    access->state = state;
    access->layout = (Layout *)Py_NewRef(layout);
    access->table = Py_NewRef(table);
    access->rows = Py_NewRef(rows);
    access->probes = Py_NewRef(probes);
    access->creators = Py_NewRef(creators);
    access->convert = Py_NewRef(convert);
    access->bucket = Py_NewRef(bucket);
    access->python_first = Py_NewRef(first);
    access->python_create = Py_NewRef(create);
    return (PyObject *)access;
}

static int access_traverse(PyObject *self, visitproc visit, void *arg) {
    Access *access = (Access *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(access->layout);
    Py_VISIT(access->table);
    Py_VISIT(access->rows);
    Py_VISIT(access->probes);
    Py_VISIT(access->creators);
    Py_VISIT(access->convert);
    Py_VISIT(access->bucket);
    Py_VISIT(access->python_first);
    Py_VISIT(access->python_create);
    Py_VISIT(access->dirty);
    Py_VISIT(access->gone);
    Py_VISIT(access->complete);
    return 0;
}

static void access_dealloc(PyObject *self) {
    Access *access = (Access *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(access->layout);
    Py_XDECREF(access->table);
    Py_XDECREF(access->rows);
    Py_XDECREF(access->probes);
    Py_XDECREF(access->creators);
    Py_XDECREF(access->convert);
    Py_XDECREF(access->bucket);
    Py_XDECREF(access->python_first);
    Py_XDECREF(access->python_create);
    Py_XDECREF(access->dirty);
    Py_XDECREF(access->gone);
    Py_XDECREF(access->complete);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef access_methods[] = {
    {"first", access_first, METH_O, "Return the lowest key among matching rows; None where no row matches."},
    {"create", access_create, METH_O, "Make, store and return a row."},
    {"update", (PyCFunction)(void (*)(void))access_update, METH_FASTCALL, "Return the block of an update."},
    {"back", access_back, METH_VARARGS, "Take dirty, gone and complete of the relation that is behind the rows from now on; nothing: there is none."},
    {NULL},
};
static PyType_Slot access_slots[] = {
    {Py_tp_new, access_new}, {Py_tp_dealloc, access_dealloc}, {Py_tp_traverse, access_traverse}, {Py_tp_methods, access_methods},
    {Py_tp_doc, "The usual ways into a table in memory."}, {0, NULL},
};
static PyType_Spec access_spec = {"sequent_py._native.Access", sizeof(Access), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, access_slots};

/* ------------------------------------------------------------------ Update */

static int touch_row(const Access *access, PyObject *row, PyObject *touched) {
    const Layout *layout = access->layout;
    PyObject *items = PyMapping_Items(touched);
    if (items == NULL) return -1;
    for (Py_ssize_t number = 0; number < PyList_GET_SIZE(items); number++) {
        PyObject *name = PyTuple_GET_ITEM(PyList_GET_ITEM(items, number), 0);
        PyObject *column = PyDict_GetItemWithError(layout->numbers, name);
        if (column == NULL) {
            if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, name);
            Py_DECREF(items);
            return -1;
        }
        set_column(layout, row, PyLong_AsSsize_t(column), Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(items, number), 1)));
    }
    Py_DECREF(items);
    return 0;
}

static PyObject *update_enter(PyObject *self, PyObject *ignored) {
    Update *update = (Update *)self;
    const Access *access = update->access;
    PyObject *key = first_key(access, update->where);
    if (key == NULL) return NULL;
    Py_XSETREF(update->key, key);
    if (key == Py_None) return PyObject_CallMethod(access->table, "refuse_missing", "O", update->where);
    PyObject *before = PyDict_GetItemWithError(access->rows, key);
    if (before == NULL) {
        if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
        return NULL;
    }
    Py_XSETREF(update->before, Py_NewRef(before));
    PyObject *after = clone_row(access->layout, before);
    if (after == NULL) return NULL;
    Py_XSETREF(update->after, after);
    int has_touched = PyObject_IsTrue(update->touched);
    if (has_touched < 0 || (has_touched && touch_row(access, after, update->touched) < 0)) return NULL;
    return Py_NewRef(after);
}

/* Store what the block has made of its copy, which is still writable. */
static int store_update(const Update *update) {
    const Access *access = update->access;
    PyObject *finisher = PyObject_GetAttr(access->table, access->state->str_finish);
    if (finisher == NULL) return -1;
    int has_moved;
    if (Py_IS_TYPE(finisher, access->state->finisher))
        has_moved = finish_row((Finisher *)finisher, update->after, update->before);
    else {
        PyObject *answer = PyObject_CallFunctionObjArgs(finisher, update->after, update->before, NULL);
        has_moved = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
    }
    Py_DECREF(finisher);
    if (has_moved < 0) return -1;
    if (!has_moved) {
        /* The usual end: no key changed, nobody else wrote the row. */
        PyObject *current = PyDict_GetItemWithError(access->rows, update->key);
        if (current == update->before) {
            if (PyDict_SetItem(access->rows, update->key, update->after) < 0) return -1;
            return access->dirty == NULL ? 0 : note_changed(access->dirty, access->gone, update->key);
        }
        if (current == NULL && PyErr_Occurred()) return -1;
    }
    PyObject *outcome = PyObject_CallMethodObjArgs(access->table, access->state->str_store, update->key, update->before, update->after,
                                                   has_moved ? Py_True : Py_False, NULL);
    Py_XDECREF(outcome);
    return outcome == NULL ? -1 : 0;
}

static PyObject *update_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    Update *update = (Update *)self;
    if (count != 3 || update->after == NULL) { PyErr_SetString(PyExc_TypeError, "the block was not entered"); return NULL; }
    int outcome = arguments[0] == Py_None ? store_update(update) : 0;
    /* Read-only from now on, whatever happened. */
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    int locked = PyObject_SetAttr(update->after, update->access->state->str_class, (PyObject *)update->access->layout->locked);
    if (outcome < 0) {
        if (locked < 0) PyErr_Clear();
        PyErr_Restore(kind, error, traceback);
        return NULL;
    }
    if (locked < 0) return NULL;
    Py_RETURN_NONE;
}

static int update_traverse(PyObject *self, visitproc visit, void *arg) {
    Update *update = (Update *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(update->access);
    Py_VISIT(update->where);
    Py_VISIT(update->touched);
    Py_VISIT(update->key);
    Py_VISIT(update->before);
    Py_VISIT(update->after);
    return 0;
}

static void update_dealloc(PyObject *self) {
    Update *update = (Update *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(update->access);
    Py_XDECREF(update->where);
    Py_XDECREF(update->touched);
    Py_XDECREF(update->key);
    Py_XDECREF(update->before);
    Py_XDECREF(update->after);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef update_methods[] = {
    {"__enter__", update_enter, METH_NOARGS, "Return a writable copy of the first row that matches."},
    {"__exit__", (PyCFunction)(void (*)(void))update_exit, METH_FASTCALL, "Store it, unless the block raised."},
    {NULL},
};
static PyType_Slot update_slots[] = {
    {Py_tp_dealloc, update_dealloc}, {Py_tp_traverse, update_traverse}, {Py_tp_methods, update_methods},
    {Py_tp_doc, "The block of an update."}, {0, NULL},
};
static PyType_Spec update_spec = {
    "sequent_py._native.Update", sizeof(Update), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, update_slots,
};

/* ------------------------------------------------------------------ Shortcut */

/* The methods of a projector that are called most. What is not usual goes to the method itself. */
enum Method { CREATE, GET, FIND, UPDATE, METHODS };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    int method;
    PyObject *tables;    /* dict from record to (Access, ((column, attribute of the event), ...)) */
    PyObject *otherwise;
} Shortcut;

/* What an update notes of its event. */
static PyObject *touched_by(PyObject *columns, PyObject *event) {
    PyObject *touched = PyDict_New();
    for (Py_ssize_t number = 0; touched != NULL && number < PyTuple_GET_SIZE(columns); number++) {
        PyObject *pair = PyTuple_GET_ITEM(columns, number), *value = PyObject_GetAttr(event, PyTuple_GET_ITEM(pair, 1));
        if (value == NULL || PyDict_SetItem(touched, PyTuple_GET_ITEM(pair, 0), value) < 0) Py_CLEAR(touched);
        Py_XDECREF(value);
    }
    return touched;
}

static PyObject *shortcut_update(const Shortcut *shortcut, PyObject *access, PyObject *columns, PyObject *event, PyObject *where) {
    if (PyDict_GET_SIZE(where) == 0) {
        PyObject *aggregate_id = PyObject_GetAttr(event, shortcut->state->str_aggregate_id);
        int outcome = aggregate_id == NULL ? -1 : PyDict_SetItem(where, shortcut->state->str_aggregate_id, aggregate_id);
        Py_XDECREF(aggregate_id);
        if (outcome < 0) return NULL;
    }
    PyObject *arguments[] = {where, touched_by(columns, event)};
    PyObject *update = arguments[1] == NULL ? NULL : access_update(access, arguments, 2);
    Py_XDECREF(arguments[1]);
    return update;
}

static PyObject *shortcut_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    const Shortcut *shortcut = (Shortcut *)self;
    Py_ssize_t given = PyVectorcall_NARGS(flags), named = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    PyObject *entry = NULL, *where = NULL, *found = NULL;
    if (given == (shortcut->method == UPDATE ? 2 : 1) && PyType_Check(arguments[0]))
        entry = PyDict_GetItemWithError(shortcut->tables, arguments[0]);
    if (entry == NULL) {
        if (PyErr_Occurred()) return NULL;
        return PyObject_Vectorcall(shortcut->otherwise, arguments, flags, keywords);
    }
    where = PyDict_New();
    if (where == NULL) return NULL;
    for (Py_ssize_t number = 0; number < named; number++) {
        PyObject *name = PyTuple_GET_ITEM(keywords, number);
        if (shortcut->method == UPDATE) {
            int is_touch = PyUnicode_Compare(name, shortcut->state->str_touch) == 0;
            if (is_touch || PyErr_Occurred()) goto otherwise;
        }
        if (PyDict_SetItem(where, name, arguments[given + number]) < 0) goto done;
    }
    PyObject *access = PyTuple_GET_ITEM(entry, 0);
    if (shortcut->method == CREATE)
        found = access_create(access, where);
    else if (shortcut->method == UPDATE)
        found = shortcut_update(shortcut, access, PyTuple_GET_ITEM(entry, 1), arguments[1], where);
    else {
        PyObject *key = first_key((Access *)access, where);
        if (key == NULL) goto done;
        if (key != Py_None) {
            found = PyDict_GetItemWithError(((Access *)access)->rows, key);
            Py_XINCREF(found);
            if (found == NULL && !PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
        } else if (shortcut->method == FIND)
            found = Py_NewRef(Py_None);
        Py_DECREF(key);
        if (key == Py_None && found == NULL) goto otherwise;
    }
done:
    Py_DECREF(where);
    return found;
otherwise:
    Py_DECREF(where);
    if (PyErr_Occurred()) return NULL;
    return PyObject_Vectorcall(shortcut->otherwise, arguments, flags, keywords);
}

static PyObject *shortcut_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"method", "tables", "otherwise", NULL};
    PyObject *tables, *otherwise, *entry;
    int method;
    State *state = state_of(type);
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iO!O", words, &method, &PyDict_Type, &tables, &otherwise)) return NULL;
    if (method < 0 || method >= METHODS) { PyErr_SetString(PyExc_ValueError, "no such method"); return NULL; }
    Py_ssize_t position = 0;
    while (PyDict_Next(tables, &position, NULL, &entry)) {
        PyObject *columns = NULL;
        if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 2 || !Py_IS_TYPE(PyTuple_GET_ITEM(entry, 0), state->access)
            || !PyTuple_Check(columns = PyTuple_GET_ITEM(entry, 1))) {
            PyErr_SetString(PyExc_TypeError, "an access and pairs of names are needed");
            return NULL;
        }
        for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(columns); number++) {
            PyObject *pair = PyTuple_GET_ITEM(columns, number);
            if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) { PyErr_SetString(PyExc_TypeError, "pairs of names are needed"); return NULL; }
        }
    }
    Shortcut *shortcut = (Shortcut *)type->tp_alloc(type, 0);
    if (shortcut == NULL) return NULL;
    shortcut->vectorcall = shortcut_call;
    shortcut->state = state;
    shortcut->method = method;
    shortcut->tables = Py_NewRef(tables);
    shortcut->otherwise = Py_NewRef(otherwise);
    return (PyObject *)shortcut;
}

static int shortcut_traverse(PyObject *self, visitproc visit, void *arg) {
    Shortcut *shortcut = (Shortcut *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(shortcut->tables);
    Py_VISIT(shortcut->otherwise);
    return 0;
}

static int shortcut_clear(PyObject *self) {
    /* It is part of a circle: a projector, this, the projector's method. */
    Py_CLEAR(((Shortcut *)self)->otherwise);
    return 0;
}

static void shortcut_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((Shortcut *)self)->tables);
    Py_XDECREF(((Shortcut *)self)->otherwise);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef shortcut_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Shortcut, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot shortcut_slots[] = {
    {Py_tp_new, shortcut_new}, {Py_tp_dealloc, shortcut_dealloc}, {Py_tp_traverse, shortcut_traverse}, {Py_tp_clear, shortcut_clear},
    {Py_tp_members, shortcut_members}, {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "A projector's method, on rows in memory."}, {0, NULL},
};
static PyType_Spec shortcut_spec = {
    "sequent_py._native.Shortcut", sizeof(Shortcut), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, shortcut_slots,
};

/* ------------------------------------------------------------------ raw events */

#define FIXED 70 /* field count, and five fields of fixed size with their lengths, and the payload's length */

/* raw_event(block): the raw event of a block that is exactly one row of seven fields; None of any other. */
static PyObject *raw_event(PyObject *module, PyObject *block) {
    Py_buffer view;
    if (PyObject_GetBuffer(block, &view, PyBUF_SIMPLE) < 0) return NULL;
    const unsigned char *data = view.buf;
    PyObject *found = NULL;
    if (view.len >= FIXED && get(data, 2) == 7 && get(data + 2, 4) == 8 && get(data + 14, 4) == 8 && get(data + 26, 4) == 16
        && get(data + 46, 4) == 4 && get(data + 54, 4) == 4) {
        long long payload = (int)get(data + 62, 4), metadata_at = 66 + payload;
        if (payload >= 1 && metadata_at + 4 <= view.len) {
            long long metadata = (int)get(data + metadata_at, 4);
            if (metadata >= 1 && metadata_at + 4 + metadata == view.len)
                /* The first byte of a jsonb is its version. */
                found = Py_BuildValue("(LLy#iiy#y#)", (long long)get(data + 6, 8), (long long)get(data + 18, 8), data + 30, (Py_ssize_t)16,
                                      (int)get(data + 50, 4), (int)get(data + 58, 4), data + 67, (Py_ssize_t)(payload - 1),
                                      data + metadata_at + 5, (Py_ssize_t)(metadata - 1));
        }
    }
    PyBuffer_Release(&view);
    if (found == NULL && !PyErr_Occurred()) Py_RETURN_NONE;
    return found;
}

/* ------------------------------------------------------------------ Setter */

#define MOST_SLOTS 8

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyTypeObject *cls;
    Py_ssize_t size, offsets[MOST_SLOTS];
} Setter;

static PyObject *setter_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    Setter *setter = (Setter *)self;
    if (PyVectorcall_NARGS(flags) != setter->size + 1 || keywords != NULL) {
        PyErr_Format(PyExc_TypeError, "an object and %zd values are needed", setter->size);
        return NULL;
    }
    if (!PyObject_TypeCheck(arguments[0], setter->cls)) {
        PyErr_Format(PyExc_TypeError, "a %s is needed, not %.80R", setter->cls->tp_name, arguments[0]);
        return NULL;
    }
    for (Py_ssize_t number = 0; number < setter->size; number++) {
        PyObject **slot = (PyObject **)((char *)arguments[0] + setter->offsets[number]);
        PyObject *before = *slot;
        *slot = Py_NewRef(arguments[number + 1]);
        Py_XDECREF(before);
    }
    Py_RETURN_NONE;
}

static PyObject *setter_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"cls", "names", NULL};
    PyObject *cls, *names;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!", words, &PyType_Type, &cls, &PyTuple_Type, &names)) return NULL;
    if (PyTuple_GET_SIZE(names) > MOST_SLOTS) { PyErr_SetString(PyExc_ValueError, "too many slots"); return NULL; }
    Setter *setter = (Setter *)type->tp_alloc(type, 0);
    if (setter == NULL) return NULL;
    setter->vectorcall = setter_call;
    setter->cls = (PyTypeObject *)Py_NewRef(cls);
    setter->size = PyTuple_GET_SIZE(names);
    for (Py_ssize_t number = 0; number < setter->size; number++) {
        setter->offsets[number] = offset_of(setter->cls, PyTuple_GET_ITEM(names, number));
        if (setter->offsets[number] < 0) { Py_DECREF(setter); return NULL; }
    }
    return (PyObject *)setter;
}

static int setter_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Setter *)self)->cls);
    return 0;
}

static void setter_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((Setter *)self)->cls);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef setter_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Setter, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot setter_slots[] = {
    {Py_tp_new, setter_new}, {Py_tp_dealloc, setter_dealloc}, {Py_tp_traverse, setter_traverse},
    {Py_tp_members, setter_members}, {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "Sets slots of an object."}, {0, NULL},
};
static PyType_Spec setter_spec = {
    "sequent_py._native.Setter", sizeof(Setter), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, setter_slots,
};

/* ------------------------------------------------------------------ LazyMoment */

#define MICROSECONDS_OF_A_DAY 86400000000LL

/* moment(microseconds): the datetime in UTC so long after 2000-01-01; OverflowError outside the years 1 to 9999. The inverse of put_moment. */
static PyObject *moment(PyObject *module, PyObject *microseconds) {
    long long number = PyLong_AsLongLong(microseconds);
    if (number == -1 && PyErr_Occurred()) return NULL;
    long long days = number / MICROSECONDS_OF_A_DAY, rest = number % MICROSECONDS_OF_A_DAY;
    if (rest < 0) { rest += MICROSECONDS_OF_A_DAY; days--; }
    days += 730425; /* From 0000-03-01, where years of the calendar begin whose last month is February. */
    long long era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned of_era = (unsigned)(days - era * 146097);
    unsigned year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned shifted = (5 * of_year + 2) / 153;
    unsigned month = shifted < 10 ? shifted + 3 : shifted - 9;
    long long year = (long long)year_of_era + era * 400 + (month <= 2);
    if (year < 1 || year > 9999) { PyErr_SetString(PyExc_OverflowError, "date value out of range"); return NULL; }
    int seconds = (int)(rest / 1000000);
    return PyDateTimeAPI->DateTime_FromDateAndTime(
        (int)year, (int)month, (int)(of_year - (153 * shifted + 2) / 5 + 1), seconds / 3600, seconds / 60 % 60, seconds % 60,
        (int)(rest % 1000000), PyDateTime_TimeZone_UTC, PyDateTimeAPI->DateTimeType);
}

typedef struct {
    PyObject_HEAD
    PyTypeObject *cls;
    PyObject *name;
    Py_ssize_t offset;
} LazyMoment;

/* An int in the slot is what moment() takes: it is converted when it is first read. */
static PyObject *lazy_get(PyObject *self, PyObject *instance, PyObject *ignored) {
    LazyMoment *lazy = (LazyMoment *)self;
    if (instance == NULL || instance == Py_None) return Py_NewRef(self);
    if (!PyObject_TypeCheck(instance, lazy->cls)) {
        PyErr_Format(PyExc_TypeError, "a %s is needed, not %.80R", lazy->cls->tp_name, instance);
        return NULL;
    }
    PyObject **slot = (PyObject **)((char *)instance + lazy->offset);
    if (*slot == NULL) { PyErr_SetObject(PyExc_AttributeError, lazy->name); return NULL; }
    if (PyLong_CheckExact(*slot)) {
        PyObject *converted = moment(NULL, *slot);
        if (converted == NULL) return NULL;
        Py_SETREF(*slot, converted);
    }
    return Py_NewRef(*slot);
}

static int lazy_set(PyObject *self, PyObject *instance, PyObject *value) {
    PyErr_SetString(PyExc_AttributeError, "it can only be read");
    return -1;
}

static PyObject *lazy_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"cls", "name", NULL};
    PyObject *cls, *name;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!U", words, &PyType_Type, &cls, &name)) return NULL;
    Py_ssize_t offset = offset_of((PyTypeObject *)cls, name);
    if (offset < 0) return NULL;
    LazyMoment *lazy = (LazyMoment *)type->tp_alloc(type, 0);
    if (lazy == NULL) return NULL;
    lazy->cls = (PyTypeObject *)Py_NewRef(cls);
    lazy->name = Py_NewRef(name);
    lazy->offset = offset;
    return (PyObject *)lazy;
}

static int lazy_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((LazyMoment *)self)->cls);
    return 0;
}

static int lazy_clear(PyObject *self) {
    Py_CLEAR(((LazyMoment *)self)->cls);
    return 0;
}

static void lazy_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    lazy_clear(self);
    Py_XDECREF(((LazyMoment *)self)->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot lazy_slots[] = {
    {Py_tp_new, lazy_new}, {Py_tp_dealloc, lazy_dealloc}, {Py_tp_traverse, lazy_traverse}, {Py_tp_clear, lazy_clear},
    {Py_tp_descr_get, lazy_get}, {Py_tp_descr_set, lazy_set}, {Py_tp_doc, "Reads a slot that holds a moment, or its microseconds."}, {0, NULL},
};
static PyType_Spec lazy_spec = {"sequent_py._native.LazyMoment", sizeof(LazyMoment), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, lazy_slots};

/* ------------------------------------------------------------------ module */

static PyMethodDef module_methods[] = {
    {"moment", moment, METH_O, "Return the datetime in UTC so many microseconds after 2000-01-01."},
    {"raw_event", raw_event, METH_O, "Return the raw event of a block that is exactly one row; None of any other block."},
    {NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **into) {
    *into = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *into == NULL ? -1 : PyModule_AddType(module, *into);
}

static int execute(PyObject *module) {
    State *state = PyModule_GetState(module);
    PyDateTime_IMPORT;
    if (PyDateTimeAPI == NULL) return -1;
    PyObject *uuid = PyImport_ImportModule("uuid");
    state->uuid_type = uuid == NULL ? NULL : PyObject_GetAttrString(uuid, "UUID");
    Py_XDECREF(uuid);
    state->str_int = PyUnicode_InternFromString("int");
    state->str_limit = PyUnicode_InternFromString("limit");
    state->str_finish = PyUnicode_InternFromString("finish");
    state->str_first = PyUnicode_InternFromString("first");
    state->str_store = PyUnicode_InternFromString("store");
    state->str_class = PyUnicode_InternFromString("__class__");
    state->str_touch = PyUnicode_InternFromString("touch");
    state->str_aggregate_id = PyUnicode_InternFromString("aggregate_id");
    if (state->uuid_type == NULL || PyErr_Occurred()) return -1;
    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) return -1;
    if (add_type(module, &layout_spec, &state->layout) < 0 || add_type(module, &creator_spec, &state->creator) < 0
        || add_type(module, &finisher_spec, &state->finisher) < 0 || add_type(module, &probe_spec, &state->probe) < 0
        || add_type(module, &access_spec, &state->access) < 0 || add_type(module, &update_spec, &state->update) < 0
        || add_type(module, &shortcut_spec, &state->shortcut) < 0 || add_type(module, &setter_spec, &state->setter) < 0
        || add_type(module, &lazy_spec, &state->lazy_moment) < 0)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    State *state = PyModule_GetState(module);
    Py_VISIT(state->uuid_type);
    Py_VISIT(state->layout);
    Py_VISIT(state->creator);
    Py_VISIT(state->finisher);
    Py_VISIT(state->probe);
    Py_VISIT(state->access);
    Py_VISIT(state->update);
    Py_VISIT(state->shortcut);
    Py_VISIT(state->setter);
    Py_VISIT(state->lazy_moment);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "sequent_py._native", .m_doc = "Rows in memory, in C.", .m_size = sizeof(State),
    .m_methods = module_methods, .m_slots = module_slots, .m_traverse = module_traverse,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module_definition); }
