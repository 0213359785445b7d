/* Layout, continued: rows from binary COPY, as the driver and RowOperations.load make them of the server's text. Part of _native.c. */

#define MICROSECONDS_OF_A_DAY 86400000000LL

typedef struct { long long year; int month, day; } Day;

/* The day so many days after 2000-01-01 in the proleptic Gregorian calendar. The inverse of days_of. */
static Day day_of(long long days) {
    days += 730425; /* From 0000-03-01, where years of the calendar begin whose last month is February. */
    long long era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned of_era = (unsigned)(days - era * 146097);
    unsigned year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned shifted = (5 * of_year + 2) / 153;
    int month = (int)(shifted < 10 ? shifted + 3 : shifted - 9);
    return (Day){(long long)year_of_era + era * 400 + (month <= 2), month, (int)(of_year - (153 * shifted + 2) / 5 + 1)};
}

static int is_in_range(Day day) { return day.year >= 1 && day.year <= 9999; }

/* The datetime in UTC so long after 2000-01-01; NULL with OverflowError outside the years 1 to 9999. The inverse of put_moment. */
static PyObject *moment_of(long long microseconds) {
    long long days = microseconds / MICROSECONDS_OF_A_DAY, rest = microseconds % MICROSECONDS_OF_A_DAY;
    if (rest < 0) { rest += MICROSECONDS_OF_A_DAY; days--; }
    Day day = day_of(days);
    if (!is_in_range(day)) { PyErr_SetString(PyExc_OverflowError, "date value out of range"); return NULL; }
    int seconds = (int)(rest / 1000000);
    return PyDateTimeAPI->DateTime_FromDateAndTime((int)day.year, day.month, day.day, seconds / 3600, seconds / 60 % 60, seconds % 60,
                                                   (int)(rest % 1000000), PyDateTime_TimeZone_UTC, PyDateTimeAPI->DateTimeType);
}

static PyObject *uuid_of(const State *state, const unsigned char *at) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *number = PyLong_FromUnsignedNativeBytes(at, 16, Py_ASNATIVEBYTES_BIG_ENDIAN);
#else
    PyObject *number = _PyLong_FromByteArray(at, 16, 0, 0);
#endif
    PyTypeObject *type = (PyTypeObject *)state->uuid_type;
    PyObject *uuid = number == NULL ? NULL : type->tp_alloc(type, 0);
    if (uuid == NULL) { Py_XDECREF(number); return NULL; }
    /* UUIDs refuse to be set, but that is all that their class does about it. */
    *(PyObject **)((char *)uuid + state->uuid_int) = number;
    *(PyObject **)((char *)uuid + state->uuid_is_safe) = Py_NewRef(state->unknown_safety);
    return uuid;
}

static PyObject *loaded_array(const State *state, const Details *details, const unsigned char *at, Py_ssize_t length);

static PyObject *member_of(PyObject *members, const unsigned char *label, Py_ssize_t length) {
    PyObject *text = PyUnicode_DecodeUTF8((const char *)label, length, NULL);
    PyObject *member = text == NULL ? NULL : PyDict_GetItemWithError(members, text);
    Py_XDECREF(text);
    return Py_XNewRef(member);
}

static PyObject *loaded_by_driver(PyObject *load, const unsigned char *at, Py_ssize_t length) {
    PyObject *value = PyObject_CallFunction(load, "y#", at, length);
    /* Infinity, and years that Python does not know. */
    if (value == NULL && PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
    return value;
}

/* A new reference to a value; NULL without an error where it is none that is made here. */
static PyObject *loaded(const State *state, int wire, const Details *details, const unsigned char *at, Py_ssize_t length) {
    double number;
    unsigned long long bits;
    Day day;
    switch (wire) {
    case INT2: return length == 2 ? PyLong_FromLong((short)get(at, 2)) : NULL;
    case INT4: return length == 4 ? PyLong_FromLong((int)get(at, 4)) : NULL;
    case INT8: return length == 8 ? PyLong_FromLongLong((long long)get(at, 8)) : NULL;
    case BOOL: return length == 1 ? PyBool_FromLong(*at) : NULL;
    case UUID_: return length == 16 ? uuid_of(state, at) : NULL;
    case TEXT: return PyUnicode_DecodeUTF8((const char *)at, length, NULL);
    case TIMESTAMPTZ:
        if (length != 8) return NULL;
        PyObject *moment = moment_of((long long)get(at, 8));
        /* Infinity, and years that Python does not know. */
        if (moment == NULL && PyErr_ExceptionMatches(PyExc_OverflowError)) PyErr_Clear();
        return moment;
    case DATE:
        if (length != 4) return NULL;
        day = day_of((int)get(at, 4));
        return is_in_range(day) ? PyDateTimeAPI->Date_FromDate((int)day.year, day.month, day.day, PyDateTimeAPI->DateType) : NULL;
    case FLOAT8:
        if (length != 8) return NULL;
        bits = get(at, 8);
        memcpy(&number, &bits, 8);
        /* There is one NaN only in rows, and Python has it. */
        return number == number ? PyFloat_FromDouble(number) : NULL;
    case NUMERIC: return numeric_of(state, at, length);
    case JSONB:
        if (length < 1 || *at != 1) return NULL;
        at++, length--; /* Its version. */
        /* fall through */
    case JSON: return PyObject_CallFunction(PyTuple_GET_ITEM(details->helper, 1), "s#", at, length);
    case ARRAY: return loaded_array(state, details, at, length);
    case ENUM: return member_of(PyTuple_GET_ITEM(details->helper, 2), at, length);
    case DRIVER: return loaded_by_driver(PyTuple_GET_ITEM(details->helper, 1), at, length);
    }
    return NULL;
}

static PyObject *loaded_array(const State *state, const Details *details, const unsigned char *at, Py_ssize_t length) {
    const unsigned char *end = at + length;
    if (length < 12 || (unsigned)get(at + 8, 4) != details->element_oid) return NULL;
    if (get(at, 4) == 0) return PyList_New(0);
    if (get(at, 4) != 1 || length < 20) return NULL;
    Py_ssize_t size = (int)get(at + 12, 4);
    PyObject *list = size < 0 || size > length ? NULL : PyList_New(size);
    at += 20;
    for (Py_ssize_t number = 0; list != NULL && number < size; number++) {
        PyObject *item = NULL;
        if (end - at >= 4) {
            Py_ssize_t bytes = (int)get(at, 4);
            at += 4;
            if (bytes == -1) item = Py_NewRef(Py_None);
            else if (bytes >= 0 && bytes <= end - at) {
                item = loaded(state, details->element_wire, NULL, at, bytes);
                at += bytes;
            }
        }
        if (item == NULL) Py_CLEAR(list);
        else PyList_SET_ITEM(list, number, item);
    }
    return list;
}

/* load(block): the locked row of a block that is exactly one row of the layout's columns; None of any other, and where a value is none that is made here. */
static PyObject *layout_load(PyObject *self, PyObject *block) {
    const Layout *layout = (Layout *)self;
    Py_buffer view;
    if (PyObject_GetBuffer(block, &view, PyBUF_SIMPLE) < 0) return NULL;
    const unsigned char *at = view.buf, *end = at + view.len;
    PyObject *row = NULL;
    if (view.len < 2 || (Py_ssize_t)get(at, 2) != layout->size) goto end;
    at += 2;
    row = layout->locked->tp_alloc(layout->locked, 0);
    if (row == NULL) goto end;
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *value = NULL;
        if (end - at >= 4) {
            Py_ssize_t length = (int)get(at, 4);
            at += 4;
            if (length == -1) value = Py_NewRef(Py_None);
            else if (length >= 0 && length <= end - at) {
                value = loaded(layout->state, layout->wires[column], &layout->columns[column], at, length);
                at += length;
            }
        }
        if (value == NULL) { Py_CLEAR(row); goto end; }
        *slot_of(layout, row, column) = value;
    }
    if (at != end) Py_CLEAR(row);
end:
    PyBuffer_Release(&view);
    if (row == NULL && !PyErr_Occurred()) Py_RETURN_NONE;
    return row;
}
