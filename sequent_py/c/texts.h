/* texts: parameters of statements as texts, see exchange.Exchange.dump. Part of _native.c. */

static const char DIGITS[] = "0123456789abcdef";

static char *put_digits(char *at, unsigned number, int digits) {
    for (int place = digits - 1; place >= 0; place--, number /= 10) at[place] = DIGITS[number % 10];
    return at + digits;
}

static PyObject *number_text(PyObject *value) {
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow) Py_RETURN_NONE;
    char text[24];
    return PyBytes_FromStringAndSize(text, snprintf(text, sizeof text, "%lld", number));
}

static PyObject *text_text(PyObject *value) {
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(value, &length);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    if (text == NULL) return NULL;
    /* It would end there: the driver says so. */
    if (memchr(text, 0, (size_t)length) != NULL) Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(text, length);
}

static PyObject *uuid_text(const State *state, PyObject *value) {
    unsigned char bytes[16];
    char text[32];
    if (uuid_bytes(state, (char *)bytes, value) < 0) return NULL;
    for (int byte = 0; byte < 16; byte++) {
        text[2 * byte] = DIGITS[bytes[byte] >> 4];
        text[2 * byte + 1] = DIGITS[bytes[byte] & 15];
    }
    return PyBytes_FromStringAndSize(text, 32);
}

static PyObject *moment_text(PyObject *value) {
    PyObject *zone = PyDateTime_DATE_GET_TZINFO(value);
    if (zone != Py_None && zone != PyDateTime_TimeZone_UTC) Py_RETURN_NONE;
    char text[32], *at = put_digits(text, (unsigned)PyDateTime_GET_YEAR(value), 4);
    *at++ = '-';
    at = put_digits(at, (unsigned)PyDateTime_GET_MONTH(value), 2);
    *at++ = '-';
    at = put_digits(at, (unsigned)PyDateTime_GET_DAY(value), 2);
    *at++ = ' ';
    at = put_digits(at, (unsigned)PyDateTime_DATE_GET_HOUR(value), 2);
    *at++ = ':';
    at = put_digits(at, (unsigned)PyDateTime_DATE_GET_MINUTE(value), 2);
    *at++ = ':';
    at = put_digits(at, (unsigned)PyDateTime_DATE_GET_SECOND(value), 2);
    if (PyDateTime_DATE_GET_MICROSECOND(value) != 0) {
        *at++ = '.';
        at = put_digits(at, (unsigned)PyDateTime_DATE_GET_MICROSECOND(value), 6);
    }
    if (zone != Py_None) {
        memcpy(at, "+00:00", 6);
        at += 6;
    }
    return PyBytes_FromStringAndSize(text, at - text);
}

/* texts(values): a list with each value's text, None for None; None where one of them is for the driver to write. */
static PyObject *texts(PyObject *module, PyObject *values) {
    const State *state = PyModule_GetState(module);
    PyObject *sequence = PySequence_Fast(values, "a sequence of values is needed");
    if (sequence == NULL) return NULL;
    Py_ssize_t size = PySequence_Fast_GET_SIZE(sequence);
    PyObject *found = PyList_New(size);
    for (Py_ssize_t number = 0; found != NULL && number < size; number++) {
        PyObject *value = PySequence_Fast_GET_ITEM(sequence, number), *text = Py_NewRef(Py_None);
        if (value != Py_None) {
            Py_DECREF(text);
            if (PyLong_CheckExact(value)) text = number_text(value);
            else if (PyUnicode_CheckExact(value)) text = text_text(value);
            else if ((PyObject *)Py_TYPE(value) == state->uuid_type) text = uuid_text(state, value);
            else if (PyDateTime_CheckExact(value)) text = moment_text(value);
            else text = Py_NewRef(Py_None);
            if (text == NULL || text == Py_None) {
                Py_DECREF(found);
                Py_DECREF(sequence);
                return text;
            }
        }
        PyList_SET_ITEM(found, number, text);
    }
    Py_DECREF(sequence);
    return found;
}
